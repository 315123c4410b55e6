// Dead letters: what is parked, why, and how it gets on its way again.

import { chip, count, el, empty, fault, moment, redraw, replace, row, table, timeOf } from "./dom.js";
import { openDialog } from "./detail.js";
import { ask } from "./store.js";
import { value, visible } from "./values.js";

const HEADS = [["Written", "time"], ["Table", "wide-only"], ["Key", "key"], ["Parked", ""], ["Reason", "grow"], ["Place", "place wide-only"]];
const KINDS = {
  row: ["a row", "A row of MySQL that no record can carry. Correct it in MySQL; the change then arrives as any other."],
  record: ["a record", "A record that the consumers can't read."],
  postgres: ["for PostgreSQL", "A record that PostgreSQL refuses; its line is in a log. Change the table or the row, then `stream dlq retry-parked`."],
  sent_again: ["sent again", "A record that was sent again; this letter notes it."],
  foreign: ["foreign", "A letter of another format."],
};

function detail(letter) {
  const [, hint] = KINDS[letter.kind] ?? ["", ""];
  const list = [
    ["Table", letter.table], ["Key", visible(letter.key)], ["Column", letter.column ?? "–"],
    ["Record", letter.partition === null ? "none: it was never one" : `partition ${letter.partition}, offset ${count(letter.record_offset)}`],
    ["Written", letter.written_at ? moment(letter.written_at) : "–"], ["Letter", `${letter.topic}, offset ${count(letter.offset)}`],
    ["PostgreSQL's code", letter.sqlstate ?? "–"], ["Bytes that did not fit", count(letter.cut)],
    ["Header source", letter.header ?? "–"],
  ];
  openDialog(`Dead letter at offset ${letter.offset}`,
    el("div", { class: "alert warning" }, el("strong", null, visible(letter.reason)), el("span", { class: "remedy" }, hint)),
    el("p", { class: "ways" },
      el("a", { class: "button", href: `#/rows?${new URLSearchParams({ table: letter.table, key: letter.key })}` }, "Trace the row"),
      letter.partition !== null && el("a", { class: "button", href: `#/topics?${new URLSearchParams({ topic: letter.record_topic, tab: "messages", partition: letter.partition, from: Math.max(0, letter.record_offset - 5) })}` }, "Its place in the topic")),
    el("dl", { class: "facts" }, list.map(([name, shown]) => el("div", null, el("dt", null, name), el("dd", null, shown)))),
    letter.preview && el("details", { open: true }, el("summary", null, "Its value"), el("pre", { tabindex: "0" }, visible(letter.preview))),
    el("p", { class: "muted" }, "On a terminal: ", el("code", null, `stream dlq show ${letter.offset}`),
      letter.kind === "record" && [", and ", el("code", null, `stream dlq replay ${letter.offset}`), " to send it again"], "."));
}

export function open(root) {
  const call = new AbortController();
  const body = el("section", { class: "card flush" }, el("p", { class: "muted padded" }, "reading the dead letters"));
  const note = el("span", { class: "muted", role: "status" });
  const load = () => ask("/api/letters", null, { signal: call.signal }).then((answer) => {
    note.textContent = answer.letters.length === 0 ? "" : `${count(answer.letters.length)} shown, the latest first${answer.is_all ? "" : "; older ones were not read"}`;
    if (answer.letters.length === 0) { replace(body, empty("No dead letter.", "Everything could be carried and stored.")); return; }
    const line = (letter) => row(HEADS, [
      timeOf(letter.written_at), visible(letter.table), value(JSON.stringify(letter.key), 24), chip("", KINDS[letter.kind]?.[0] ?? letter.kind),
      el("span", null, letter.column && el("span", { class: "column" }, `${visible(letter.column)}: `), visible(letter.reason.slice(0, 240))),
      letter.partition === null ? "–" : `${letter.partition} / ${count(letter.record_offset)}`,
    ], () => detail(letter));
    redraw(body, table(HEADS, answer.letters.map(line), "Dead letters"));
  }).catch((error) => error.name !== "AbortError" && replace(body, el("div", { class: "padded" }, fault({ part: "The dead letters", reason: error.message, what_to_do: error.remedy }))));
  replace(root, el("div", { class: "bar" }, el("button", { type: "button", onclick: load }, "Read again"), note), body);
  load();
  return () => call.abort();
}

// The latest changes as they come, with what they changed.

import { count, duration, el, empty, op, replace, row, table, text, timeOf } from "./dom.js";
import { showChange } from "./detail.js";
import { on, store } from "./store.js";
import { latency, summary, value, visible } from "./values.js";

const HEADS = [["Committed", "time"], ["Table", "table-name wide-only"], ["Key", "key"], ["", ""], ["What changed", "grow"], ["Place", "place wide-only"], ["To Kafka", "num wide-only"]];
const LINES = 100;
const chosen = { table: "", op: "", words: "" };

function matches(change) {
  if (chosen.table && change.table !== chosen.table) return false;
  if (chosen.op && change.op !== chosen.op) return false;
  if (!chosen.words) return true;
  const words = chosen.words.toLowerCase();
  const has = (values) => (values ?? []).some(([name, json]) => name.toLowerCase().includes(words) || json.toLowerCase().includes(words));
  return change.key.toLowerCase().includes(words) || has(change.row) || has(change.before);
}

function line(change) {
  const wait = latency(change);
  return row(HEADS, [
    timeOf(change.committed_at ?? change.written_at), visible(change.table), value(JSON.stringify(change.key), 24), op(change.op), summary(change),
    `${change.partition} / ${count(change.offset)}`, wait === null ? "–" : duration(wait),
  ], () => showChange(change));
}

export function open(root) {
  let isPaused = false;
  let missed = 0;
  const pause = el("button", { type: "button", "aria-pressed": "false", onclick: () => { isPaused = !isPaused; missed = 0; all(); } }, "Pause");
  const note = el("span", { class: "muted", role: "status" });
  const tables = el("select", { "aria-label": "Table", onchange: () => { chosen.table = tables.value; all(); } });
  const ops = el("select", { "aria-label": "Operation", onchange: () => { chosen.op = ops.value; all(); } },
    [["", "all operations"], ["c", "create"], ["u", "update"], ["d", "delete"], ["r", "snapshot"]].map(([letter, name]) => el("option", { value: letter }, name)));
  const words = el("input", { type: "search", placeholder: "Key or value", "aria-label": "Key or value", value: chosen.words, oninput: () => { chosen.words = words.value; all(); } });
  ops.value = chosen.op;
  const list = table(HEADS, [], "Latest changes");
  const body = list.querySelector("tbody");
  const none = el("div");
  replace(root, el("div", { class: "bar" }, tables, ops, words, pause, note), el("section", { class: "card flush" }, list, none));

  const state = () => {
    text(pause, isPaused ? "Continue" : "Pause");
    pause.setAttribute("aria-pressed", String(isPaused));
    const { c, u, d, r } = store.ops;
    text(note, isPaused ? `paused; ${count(missed)} more` : `${count(store.total)} since you watch: ${count(c)} created, ${count(u)} updated, ${count(d)} deleted${r ? `, ${count(r)} by a snapshot` : ""}`);
    const isEmpty = body.children.length === 0;
    list.hidden = isEmpty;
    const hint = store.changes.length > 0 ? "The filter hides all of the latest." : "Change a row in MySQL, and it appears here.";
    if (!isEmpty) replace(none);
    else replace(none, store.isReading ? empty("No change since you watch.", hint) : empty("The topics are being opened.", "It takes a second."));
  };
  const names = () => {
    const known = (store.status?.tables ?? []).map((one) => one.name);
    if (tables.dataset.known === known.join("\n") && tables.children.length > 0) return;
    tables.dataset.known = known.join("\n");
    replace(tables, el("option", { value: "" }, "all tables"), known.map((name) => el("option", { value: name }, visible(name))));
    tables.value = chosen.table;
    list.classList.toggle("one-table", known.length === 1);
    tables.hidden = known.length === 1;
  };
  const all = () => {
    names();
    if (!isPaused) replace(body, store.changes.filter(matches).slice(0, LINES).map(line));
    state();
  };
  all();
  const ends = [
    on("hello", all),
    on("status", names),
    on("second", () => { if (body.children.length === 0) state(); }),
    on("flow", ({ count: number, shown }) => {
      if (isPaused) missed += number;
      else {
        body.prepend(...shown.filter(matches).toReversed().map(line));
        while (body.children.length > LINES) body.lastChild.remove();
      }
      state();
    }),
  ];
  return () => ends.forEach((end) => end());
}

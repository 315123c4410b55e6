// The way of a row, hop by hop, and where it stands.

import { clock, count, duration, el, failing, fault, moment, op, replace } from "./dom.js";
import { value, visible } from "./values.js";

const HOPS = {
  arrived: ["good", "It is everywhere where it belongs"],
  producer: ["warning", "It waits for the producer"],
  consumer: ["warning", "It waits for a consumer"],
  postgres: ["warning", "It waits for PostgreSQL"],
  parked: ["bad", "It is parked"],
  nowhere: ["", "No such row"],
  unknown: ["", "It can't be told"],
};

/** How far each standing lets the way be green: MySQL, topic, consumer and log, PostgreSQL. */
const REACHED = { arrived: 4, postgres: 3, consumer: 2, producer: 1, nowhere: 0, unknown: 0, parked: 0 };

function hop(level, title, at, ...lines) {
  return el("li", { class: level }, el("i", { "aria-hidden": "true" }),
    el("div", { class: "hop-head" }, el("b", null, title), at && el("span", { class: "muted", title: String(at.at) }, at.text)),
    lines.map((line) => line && el("p", { class: "muted" }, line)));
}

/** A time, and how long it took since the commit. */
function after(time, begin) {
  if (!time) return null;
  const since = begin ? (new Date(time) - new Date(begin)) / 1000 : null;
  return { at: time, text: since === null || since < 0 ? clock(time) : `+${duration(since)}` };
}

function hops(trace, change) {
  const { standing, source, postgres } = trace;
  const isLast = change === trace.changes.at(-1);
  // An earlier change was overtaken; only the last one is judged.
  const reached = isLast ? (REACHED[standing.hop] ?? 0) : 4;
  const level = (number, isThere) => (isThere ? "good" : isLast && number === reached + 1 ? "warning" : "");
  const begin = change?.committed_at;
  const list = [];
  const row = source?.row ? Object.keys(source.row).length : 0;
  list.push(hop(begin || source?.exists ? "good" : "", "MySQL", begin && { at: begin, text: clock(begin) },
    change?.position ? ["committed at ", el("code", null, visible(change.position))] : source ? (source.exists ? `the row is there${row ? ` with ${row} columns` : ""}` : "the row is not there") : `MySQL ${failing(trace.faults, "MySQL") ?? "was not asked"}`));
  list.push(hop(level(2, Boolean(change)), "Topic", after(change?.written_at, begin),
    change ? `${trace.topic}, partition ${change.partition}, offset ${count(change.offset)}` : trace.uncommitted > 0 ? "in a Kafka transaction that is open" : "not there"));
  const log = change?.log;
  list.push(hop(level(3, Boolean(change?.is_consumed)), log ? `Log of ${log.slot}` : "Consumer and log", after(log?.committed_by, begin),
    log ? `${log.file}, byte ${count(log.byte)}` : change?.no_log ?? (change?.is_consumed ? "the group has read it" : "the group has not read it yet"),
    log && el("details", null, el("summary", null, "its line"), el("pre", { tabindex: "0" }, visible(log.line)))));
  const away = failing(trace.faults, "PostgreSQL");
  if (postgres || away) {
    const isThere = Boolean(change?.is_in_postgres) || (isLast && standing.hop === "arrived");
    list.push(hop(postgres?.parked ? "bad" : level(4, isThere), "PostgreSQL", after(postgres?.committed_at && change?.is_in_postgres ? postgres.committed_at : null, begin),
      postgres ? (change?.is_in_postgres ? `the row of ${postgres.table} is this change` : postgres.exists ? `${postgres.table} has ${postgres.offset === null ? "a row" : `offset ${count(postgres.offset)}`}` : `${postgres.table} has no such row`) : away,
      postgres?.parked && `parked: ${postgres.parked.reason}`));
  }
  return el("ol", { class: "hops" }, list);
}

/** A card about a trace. */
export function trace(found) {
  const [level, words] = HOPS[found.standing.hop] ?? ["", found.standing.hop];
  const wanted = found.changes.findIndex((one) => one.partition === found.asked?.partition && one.offset === found.asked?.offset);
  let at = wanted >= 0 ? wanted : found.changes.length - 1;
  const way = el("div", { class: "way" });
  const choice = el("select", { "aria-label": "Change", onchange: () => { at = Number(choice.value); draw(); } },
    found.changes.map((one, number) => el("option", { value: String(number) }, `offset ${count(one.offset)}, ${one.committed_at ? moment(one.committed_at) : "?"}`)).toReversed());
  const draw = () => {
    const change = found.changes[at];
    choice.value = String(at);
    replace(way, change && el("p", null, op(change.op), " ", at === found.changes.length - 1 ? "the latest change" : "an earlier change"), hops(found, change));
  };
  draw();
  return el("section", { class: "card" },
    el("header", null, el("h2", null, "Where it is"), found.changes.length > 1 && choice),
    el("div", { class: `alert ${level}` }, el("strong", null, words), el("span", null, visible(found.standing.text)),
      found.standing.what_to_do && el("span", { class: "remedy" }, `What to do: ${found.standing.what_to_do}`)),
    way,
    found.letter && el("p", null, el("a", { href: "#/letters" }, `Its last dead letter: ${visible(found.letter.reason)}`)),
    found.faults.map(fault),
    found.key !== null && el("p", { class: "muted" }, "On a terminal: ", el("code", null, "stream trace "), value(JSON.stringify(found.key), 60)));
}

// Rows as the server sends them: `[[column, JSON text], ...]`. A number keeps all its digits, as it stays text.

import { clock, count, el, moment, op } from "./dom.js";

/** The value of a JSON text as a person reads it; `null` is null. */
export function plain(json) {
  if (json === null || json === undefined || json === "null") return null;
  if (json.startsWith('"')) {
    try { return JSON.parse(json); } catch { return json; }
  }
  return json;
}

export const isNumber = (json) => /^-?\d/.test(json ?? "");

/** The number of a JSON text, also of a decimal that is written as text; `null` when it is none. */
export function number(json) {
  const value = plain(json);
  return value !== null && /^-?\d+(\.\d+)?(e[+-]?\d+)?$/i.test(value) ? Number(value) : null;
}

const CUT = 60;

/** Text without control characters and marks of direction, which could make a line look like another one. */
export function visible(value) {
  return value.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

function cut(value, most) {
  const letters = [...value.slice(0, most * 2 + 2)];
  return letters.length > most ? `${letters.slice(0, most).join("")}…` : value;
}

/** A value in one line. */
export function value(json, most = CUT) {
  const shown = plain(json);
  if (shown === null) return el("span", { class: "null" }, "null");
  return el("bdi", { class: isNumber(json) ? "num" : "" }, visible(cut(shown, most)));
}

/** The columns that differ: `[name, before, after]`; without an earlier row, all columns. */
export function differences(before, after) {
  if (!after) return (before ?? []).map(([name, json]) => [name, json, undefined]);
  if (!before) return after.map(([name, json]) => [name, undefined, json]);
  const earlier = new Map(before);
  const both = after.filter(([name, json]) => earlier.get(name) !== json).map(([name, json]) => [name, earlier.get(name), json]);
  const later = new Set(after.map(([name]) => name));
  return both.concat(before.filter(([name]) => !later.has(name)).map(([name, json]) => [name, json, undefined]));
}

/** The begin that two long texts share is not worth the room: `…50.497Z` and `…52.032Z`. */
function apart(from, to) {
  const [a, b] = [plain(from), plain(to)];
  if (!a || !b || a.length < 17 || b.length < 17) return [from, to];
  let same = 0;
  while (same < a.length && a[same] === b[same]) same += 1;
  // Not within a number or a word.
  while (same > 0 && /[\p{L}\p{N}]/u.test(a[same - 1])) same -= 1;
  return same < 8 ? [from, to] : [a, b].map((text) => JSON.stringify(`…${text.slice(same)}`));
}

/** What a change changed, in one line. */
export function summary(change) {
  if (change.unreadable) return el("span", { class: "unreadable" }, visible(cut(change.unreadable, 120)));
  if (change.op === "d") return change.before ? line(change.before, 4) : el("span", { class: "muted" }, "the row is gone");
  if (!change.before) return line(change.row ?? [], 4);
  const list = differences(change.before, change.row);
  if (list.length === 0) return el("span", { class: "muted" }, "the same values");
  const shown = list.slice(0, 4).map(([name, ...both]) => {
    const [from, to] = apart(...both);
    return el("span", { class: "pair" }, el("span", { class: "column" }, visible(cut(name, 40))),
      el("span", { class: "from" }, value(from, 32)), el("span", { class: "arrow", "aria-label": "becomes" }, "→"), value(to, 32));
  });
  return el("span", { class: "pairs" }, shown, list.length > 4 && el("span", { class: "muted" }, `+${list.length - 4}`));
}

function line(row, most) {
  return el("span", { class: "pairs" }, row.slice(0, most).map(([name, json]) => el("span", { class: "pair" },
    el("span", { class: "column" }, visible(cut(name, 40))), value(json, 32))), row.length > most && el("span", { class: "muted" }, `+${row.length - most}`));
}

/** Both rows side by side; what differs is marked. */
export function comparison({ before, row, op: letter, known }) {
  const names = [...new Set([...(before ?? []), ...(row ?? [])].map(([name]) => name))];
  const [from, to] = [new Map(before ?? []), new Map(row ?? [])];
  const cell = (map, name, other) => {
    if (!map.has(name)) return el("td", { class: "muted" }, "–");
    const differs = other.size > 0 && other.get(name) !== map.get(name);
    return el("td", { class: differs ? "differs" : "" }, el("div", { class: "long" }, value(map.get(name), 20_000)));
  };
  const first = before ? "Before" : known ? "Before: no row" : "Before: not known";
  return el("div", { class: "scroll" }, el("table", { class: "comparison" },
    el("thead", null, el("tr", null, el("th", { scope: "col" }, "Column"), el("th", { scope: "col" }, first), el("th", { scope: "col" }, letter === "d" ? "After: deleted" : "After"))),
    el("tbody", null, names.map((name) => el("tr", null, el("th", { scope: "row" }, visible(name)), cell(from, name, to), cell(to, name, from))))));
}

/** The facts of a record beside its values. */
export function facts(change, more = []) {
  const list = [
    ["Table", change.table],
    ["Key", visible(cut(change.key, 400))],
    ["Operation", op(change.op)],
    ["Committed in MySQL", change.committed_at ? moment(change.committed_at) : "–"],
    ["At position", change.position ?? "–"],
    ["Written to Kafka", change.written_at ? moment(change.written_at) : "–"],
    ["Place", `${change.topic}, partition ${change.partition}, offset ${count(change.offset)}`],
    ["Epoch", change.epoch === null ? "–" : String(change.epoch)],
    ...more,
  ];
  return el("dl", { class: "facts" }, list.map(([name, shown]) => el("div", null, el("dt", null, name), el("dd", null, shown))));
}

/** Milliseconds from the commit to the topic. */
export function latency(change) {
  if (!change.committed_at || !change.written_at || change.op === "r") return null;
  return Math.max(0, new Date(change.written_at) - new Date(change.committed_at)) / 1000;
}

/** A link to the row of a change. */
export const rowLink = (change) => `#/rows?${new URLSearchParams({ table: change.table, key: change.key })}`;

export const at = (change) => (change.committed_at ? clock(change.committed_at) : change.written_at ? clock(change.written_at) : "–");

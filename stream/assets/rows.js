// A row: its history as a curve, its changes, its way through the pipeline. Without a row: what the table has.

import { bars, chart } from "./charts.js";
import { clock, count, el, empty, fault, op, refill, replace, row, table, timeOf } from "./dom.js";
import { showChange } from "./detail.js";
import { ask, on, store } from "./store.js";
import { trace } from "./trace.js";
import { number, plain, summary, value, visible } from "./values.js";

const HEADS = [["Committed", "time"], ["", ""], ["What changed", "grow"], ["Epoch", "num wide-only"], ["Place", "place wide-only"]];

const problem = (what, error) => fault({ part: what, reason: error.message, what_to_do: error.remedy });

/** The form that chooses a row. */
function search({ table: name, key }) {
  const known = (store.status?.tables ?? []).map((one) => one.name);
  if (name && !known.includes(name)) known.unshift(name);
  const tables = el("select", { "aria-label": "Table", onchange: () => { location.hash = `#/rows?${new URLSearchParams({ table: tables.value })}`; } }, known.map((one) => el("option", { value: one }, visible(one))));
  if (name) tables.value = name;
  const input = el("input", { type: "search", placeholder: "Primary key, e.g. 12 or [1,\"a\"]", "aria-label": "Primary key", value: key ?? "" });
  return el("form", { class: "bar", onsubmit: (event) => {
    event.preventDefault();
    location.hash = `#/rows?${new URLSearchParams({ table: tables.value, key: input.value.trim() })}`;
  } }, tables, input, el("button", { class: "primary" }, "Show"), key && el("a", { class: "button", href: `#/rows?${new URLSearchParams({ table: name })}` }, "All rows"));
}

// ---- one row

function curve(changes, place) {
  const numeric = new Map();
  for (const { row: values } of changes) for (const [name, json] of values ?? []) if (number(json) !== null) numeric.set(name, (numeric.get(name) ?? 0) + 1);
  // What differs most is worth the first look, the key never.
  const differs = (name) => {
    const values = new Set(changes.filter((change) => change.row).map((change) => plain(new Map(change.row).get(name))));
    return values.has(changes[0].key) ? 0 : values.size;
  };
  const names = [...numeric.keys()].sort((a, b) => differs(b) - differs(a));
  if (names.length === 0) return () => {};
  let shown = null;
  const draw = (name) => {
    shown?.close();
    const points = changes.filter((change) => change.committed_at).map((change) => {
      const json = new Map(change.row ?? []).get(name);
      return [new Date(change.committed_at) / 1000, json === undefined ? null : number(json)];
    });
    // Curves need times that grow; a transaction's rows have one time.
    const at = [];
    const values = [];
    for (const [time, one] of points.sort((a, b) => a[0] - b[0])) {
      at.push(at.length > 0 && time <= at.at(-1) ? at.at(-1) + 0.000001 : time);
      values.push(one);
    }
    shown = chart({ title: `${visible(name)} over time`, format: (v) => String(v), height: 200, points: true, curves: [{ label: visible(name), colour: "--curve-1", steps: true }] });
    const choice = el("select", { "aria-label": "Column", onchange: () => draw(choice.value) }, names.map((one) => el("option", { value: one }, visible(one))));
    choice.value = name;
    shown.card.querySelector("header").prepend(choice);
    refill(place, () => replace(place, shown.card));
    shown.set([at, values]);
  };
  draw(names[0]);
  return () => shown?.close();
}

function history({ changes, searched, partition, topic }) {
  const line = (change) => row(HEADS, [timeOf(change.committed_at ?? change.written_at), op(change.op), summary(change), String(change.epoch ?? "–"), `${change.partition} / ${count(change.offset)}`], () => showChange(change));
  const note = searched.is_complete
    ? `${count(changes.length)} changes in partition ${partition} of ${topic}`
    : `the latest ${count(changes.length)}; offsets before ${count(searched.from)} were not read (the partition begins at ${count(searched.begin)})`;
  return el("section", { class: "card flush" }, el("header", null, el("h2", null, "Its changes"), el("span", { class: "muted" }, note)),
    table(HEADS, changes.toReversed().map(line), "Changes of the row"));
}

function oneRow(body, parameters) {
  const { table: name, key, partition, offset } = parameters;
  const [plot, way, list] = ["row-plot", "row-way", "row-list"].map((name) => el("div", { class: name }));
  replace(body, el("div", { class: "row-view" }, plot, way, list));
  replace(list, el("p", { class: "muted" }, "reading the partition of the key"));
  replace(way, el("p", { class: "muted" }, "asking each hop"));
  let end = () => {};
  const call = new AbortController();
  ask("/api/history", { table: name, key }, { signal: call.signal }).then((answer) => {
    if (answer.changes.length === 0) {
      replace(list, empty(`No change of the key ${key} was found.`, answer.searched.is_complete ? "The partition of this key has no record of it." : `Offsets before ${count(answer.searched.from)} were not read.`));
      return;
    }
    end = curve(answer.changes, plot);
    replace(list, history(answer));
  }).catch((error) => error.name !== "AbortError" && replace(list, problem("The history", error)));
  const one = offset ? { table: name, partition, offset } : { table: name, key };
  ask("/api/trace", one, { signal: call.signal })
    .then((answer) => replace(way, trace(answer)))
    .catch((error) => error.name !== "AbortError" && replace(way, problem("The trace", error)));
  return () => { call.abort(); end(); };
}

// ---- all rows

function column(one, rows) {
  const items = one.top.map(({ value: json, count: number }) => ({ name: plain(json), count: number }));
  const rest = one.others > 0 && el("p", { class: "muted" }, `and ${count(one.others)} rows with ${one.is_capped ? "more than " : ""}${count(one.distinct - one.top.length)} other values`);
  const range = one.least !== null && one.least !== undefined && el("span", { class: "muted" }, `${one.least} to ${one.greatest}, mean ${one.mean}`);
  // Of values that nearly every row has another of, bars say nothing.
  const differs = one.distinct > 12 && one.distinct > rows / 2;
  return el("section", { class: "card" },
    el("header", null, el("h2", null, visible(one.name)), range || el("span", { class: "muted" }, `${one.is_capped ? "more than " : ""}${count(one.distinct)} values in ${count(rows)} rows`)),
    differs ? el("p", { class: "muted" }, `${one.is_capped ? "more than " : ""}${count(one.distinct)} different values`)
      : [bars(items.map((item) => ({ ...item, name: item.name === null ? null : visible(item.name.slice(0, 80)) })), count), rest]);
}

function allRows(body, name) {
  if (!name) {
    replace(body, empty("No table is taken yet.", "The producer takes the tables of the setting `tables`."));
    return () => {};
  }
  replace(body, el("p", { class: "muted" }, "reading the latest records"));
  const call = new AbortController();
  ask("/api/values", { table: name }, { signal: call.signal }).then((answer) => {
    if (answer.rows === 0) {
      replace(body, empty("The topic has no row.", ""));
      return;
    }
    // What groups the rows stands first: few values in many rows.
    const score = (one) => (one.distinct <= 1 ? 2 : one.distinct > answer.rows / 2 ? 1 : 0);
    const columns = answer.columns.toSorted((a, b) => score(a) - score(b));
    const what = answer.is_complete ? `all ${count(answer.records)} records of the topic` : `the latest ${count(answer.records)} records of the topic; older rows are not counted`;
    const latest = answer.latest.map(({ key, committed_at: at }) => el("li", null, el("a", { href: `#/rows?${new URLSearchParams({ table: name, key })}` }, value(JSON.stringify(key), 40)), el("span", { class: "muted" }, at ? clock(at).slice(0, 8) : "")));
    replace(body,
      el("p", { class: "muted" }, `The last state of ${count(answer.rows)} rows, from ${what}.`),
      el("div", { class: "value-cards" },
        el("section", { class: "card" }, el("header", null, el("h2", null, "Latest rows"), el("span", { class: "muted" }, "choose one")), el("ul", { class: "keys" }, latest)),
        columns.map((one) => column(one, answer.rows))));
  }).catch((error) => error.name !== "AbortError" && replace(body, problem("The rows", error)));
  return () => call.abort();
}

export function open(root, parameters) {
  const body = el("div");
  let end = () => {};
  let waits = null;
  const begin = () => {
    const name = parameters.table ?? store.status?.tables[0]?.name;
    const one = { ...parameters, table: name };
    replace(root, search(one), body);
    end = parameters.key ? oneRow(body, one) : allRows(body, name);
  };
  // The names of the tables come with the first status.
  if (store.status || parameters.key) begin();
  else {
    replace(root, el("p", { class: "muted" }, "asking which tables are taken"));
    waits = on("status", () => { waits(); begin(); });
  }
  return () => { waits?.(); end?.(); };
}


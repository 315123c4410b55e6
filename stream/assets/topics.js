// Topics: partitions, schemas, messages.

import { bytes, count, duration, el, empty, fault, op, rate, redraw, replace, row, slot, table, timeOf, unread } from "./dom.js";
import { showChange } from "./detail.js";
import { ask, on, store } from "./store.js";
import { latency, summary, value, visible } from "./values.js";

const TOPICS = [["Topic", "grow"], ["Table", "wide-only"], ["Partitions", "num"], ["Offsets", "num wide-only"], ["Last minute", "num"], ["Lag", "num"], ["Dead letters", "num wide-only"]];
const PARTITIONS = [["Partition", "num"], ["Begins", "num wide-only"], ["Ends", "num"], ["Committed", "num"], ["Lag", "num"], ["Open", "num wide-only"], ["Written/s", "num wide-only"], ["Read/s", "num wide-only"], ["Held by", "grow"]];
const MESSAGES = [["Written", "time"], ["Place", "place"], ["Key", "key"], ["", ""], ["Value", "grow"], ["Latency", "num wide-only"]];
const TABS = [["partitions", "Partitions"], ["messages", "Messages"], ["schema", "Schema"]];

const sum = (table, name) => table.partitions.reduce((all, one) => all + (one[name] ?? 0), 0);
const link = (parameters) => `#/topics?${new URLSearchParams(parameters)}`;
const problem = (what, error) => fault({ part: what, reason: error.message, what_to_do: error.remedy });

/** Draws with each status, but not while somebody selects text in the list. */
function whileOpen(draw) {
  draw();
  return on("status", () => { if (getSelection().isCollapsed) draw(); });
}

function allTopics(root) {
  const body = el("section", { class: "card flush" });
  replace(root, body);
  return whileOpen(() => {
    const { status } = store;
    if (!status) return;
    if (status.tables.length === 0) { replace(body, empty("No topic yet.", "The producer makes a topic for each table it takes.")); return; }
    const lines = status.tables.map((one) => row(TOPICS, [
      visible(one.topic) + (one.exists ? "" : " (not there yet)"), visible(one.name), count(one.partitions.length), count(sum(one, "end") - sum(one, "begin")),
      count(sum(one, "written_last_minute")), count(one.partitions.reduce((all, part) => all + unread(part), 0)), count(one.dead_letters),
    ], () => { location.hash = link({ topic: one.topic }); }));
    redraw(body, table(TOPICS, lines, "Topics"));
  });
}

function partitions(body, topic) {
  return whileOpen(() => {
    const one = store.status?.tables.find((known) => known.topic === topic);
    if (!one) { replace(body, empty("The topic is not known.", "Perhaps Kafka is away.")); return; }
    const lines = one.partitions.map((part) => row(PARTITIONS, [
      String(part.number), count(part.begin), count(part.end), count(part.committed), count(unread(part)), count(part.open),
      rate(part.written_per_second), rate(part.read_per_second),
      part.holder ? el("span", { class: part.waits ? "bad-text" : "" }, slot(part.holder), part.waits ? " (stopped)" : "") : el("span", { class: "bad-text" }, "nobody"),
    ], () => { location.hash = link({ topic, tab: "messages", partition: part.number }); }));
    redraw(body, table(PARTITIONS, lines, "Partitions"));
  });
}

function messages(body, { topic, partition, from }) {
  const number = store.status?.tables.find((one) => one.topic === topic)?.partitions.length ?? 0;
  const parts = el("select", { "aria-label": "Partition" }, el("option", { value: "" }, "all partitions"),
    Array.from({ length: Math.max(number, Number(partition ?? -1) + 1) }, (_, at) => el("option", { value: String(at) }, `partition ${at}`)));
  parts.value = partition ?? "";
  const offset = el("input", { type: "number", min: "0", placeholder: "latest", "aria-label": "From offset", value: from ?? "" });
  const go = () => { location.hash = link({ topic, tab: "messages", ...(parts.value && { partition: parts.value }), ...(parts.value && offset.value && { from: offset.value }) }); };
  parts.addEventListener("change", go);
  offset.disabled = !partition;
  const list = el("div", null, el("p", { class: "muted padded" }, "reading"));
  const again = el("button", { type: "button", onclick: () => load() }, "Read again");
  replace(body, el("form", { class: "bar padded", onsubmit: (event) => { event.preventDefault(); go(); } }, parts, el("label", null, "from offset ", offset), el("button", { class: "primary" }, "Show"), again), list);
  const call = new AbortController();
  const load = () => ask("/api/messages", { topic, partition, from }, { signal: call.signal }).then((answer) => {
    const lines = answer.messages.map((one) => {
      const wait = latency(one);
      return row(MESSAGES, [timeOf(one.written_at), `${one.partition} / ${count(one.offset)}`, value(JSON.stringify(one.key), 24), op(one.op), summary(one), wait === null ? "–" : duration(wait)], () => showChange(one));
    });
    const last = answer.messages.at(-1);
    const next = partition && last && el("p", { class: "padded" }, el("a", { class: "button", href: link({ topic, tab: "messages", partition, from: last.offset + 1 }) }, "Next"));
    replace(list, lines.length === 0 ? empty("No message here.", "Committed messages only; the markers of transactions have offsets too.") : table(MESSAGES, lines, "Messages"), from !== undefined && next);
  }).catch((error) => error.name !== "AbortError" && replace(list, problem("The messages", error)));
  load();
  return () => call.abort();
}

function schema(body, topic) {
  const call = new AbortController();
  replace(body, el("p", { class: "muted padded" }, "asking the registry"));
  ask("/api/schema", { topic }, { signal: call.signal }).then((answer) => {
    const version = (one) => {
      let shown = one.schema;
      try { shown = JSON.stringify(JSON.parse(one.schema), null, 2); } catch { /* Shown as it is. */ }
      return el("details", { open: one === answer.versions[0] }, el("summary", null, `version ${one.version}`, el("span", { class: "muted" }, bytes(one.schema.length))), el("pre", { tabindex: "0" }, shown));
    };
    replace(body, el("div", { class: "padded" }, el("p", { class: "muted" }, `Subject ${answer.subject}, the latest versions first. The key is the primary key as text.`),
      answer.versions.length === 0 ? empty("The registry has no schema of this topic.", "") : answer.versions.map(version)));
  }).catch((error) => error.name !== "AbortError" && replace(body, el("div", { class: "padded" }, problem("The schema", error))));
  return () => call.abort();
}

export function open(root, parameters) {
  const { topic, tab = "partitions" } = parameters;
  if (!topic) return allTopics(root);
  const body = el("div");
  const tabs = el("nav", { class: "tabs", "aria-label": "Of the topic" }, TABS.map(([name, label]) =>
    el("a", { href: link({ topic, tab: name }), "aria-current": name === tab && "page" }, label)));
  replace(root,
    el("p", { class: "crumbs" }, el("a", { href: "#/topics" }, "Topics"), " / ", el("b", null, visible(topic))),
    el("section", { class: "card flush" }, tabs, body));
  if (tab === "messages") return messages(body, parameters);
  if (tab === "schema") return schema(body, topic);
  return partitions(body, topic);
}

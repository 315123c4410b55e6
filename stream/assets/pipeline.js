// The first view: the picture, its numbers and curves, and what has happened.

import { chart } from "./charts.js";
import { chip, clock, count, duration, el, empty, failing, rate, replace, slot, text, unread } from "./dom.js";
import { Picture, stateOf } from "./picture.js";
import { on, store } from "./store.js";

const ms = (value) => duration(value / 1000);

function tile(label, hint) {
  const [value, note] = [el("strong", null, "–"), el("span", { class: "note" })];
  const box = el("div", { class: "tile", title: hint }, el("span", { class: "label" }, label), value, note);
  return {
    box,
    set(shown, under, level) {
      text(value, shown);
      text(note, under);
      box.className = `tile ${level ?? ""}`;
    },
  };
}

function tiles() {
  const changes = tile("Changes a second", "Changes that became readable in Kafka in the last second");
  const source = tile("Kafka behind MySQL", "How far the topics are behind the end of the binlog");
  const lag = tile("Consumers behind Kafka", "Offsets that the group has not committed yet");
  const latency = tile("Latency, p99", "From the commit in MySQL until the line is durable in a log, else until the change is readable in Kafka, of the last ten seconds with changes");
  const letters = tile("Dead letters", "Records that could not be carried or stored; none is lost");
  return {
    boxes: [changes, source, lag, latency, letters].map((one) => one.box),
    update() {
      const { status, series, total } = store;
      const last = (name) => series[name].at(-1);
      changes.set(rate(last("written")), `${count(total)} since you watch`);
      const latest = (name) => series[name].slice(-10).findLast((value) => value !== null);
      const [kafka, logs] = [latest("p99"), latest("log_p99")];
      if (logs !== undefined) latency.set(ms(logs), `into a log; p50 ${ms(latest("log_p50"))}`);
      else latency.set(kafka === undefined ? "–" : ms(kafka), kafka === undefined ? "no change yet" : `into Kafka; p50 ${ms(latest("p50"))}`);
      if (!status) return;
      const from = status.source;
      if (!from) source.set("unknown", `MySQL ${failing(status.faults, "MySQL") ?? "was not asked"}`, "bad");
      else if (from.is_same_server === false) source.set("another server", "see above", "bad");
      else if (from.behind_bytes === 0) source.set("nothing", "all is in Kafka");
      else source.set(from.behind_seconds === null ? "–" : duration(from.behind_seconds), from.behind_bytes === null ? "" : `${count(from.behind_bytes)} bytes of binlog`);
      const partitions = status.tables.flatMap((table) => table.partitions);
      const behind = partitions.reduce((sum, one) => sum + unread(one), 0);
      const waits = partitions.filter((one) => one.waits || !one.holder).length;
      lag.set(behind === 0 ? "nothing" : count(behind), waits > 0 ? `${waits} partitions have no reader` : behind === 0 ? "all is committed" : "offsets", waits > 0 ? "bad" : "");
      const parked = status.tables.reduce((sum, table) => sum + (table.parked_keys ?? 0), 0);
      const dead = status.tables.reduce((sum, table) => sum + table.dead_letters, 0);
      letters.set(count(dead), parked > 0 ? `${count(parked)} ${parked === 1 ? "key" : "keys"} parked` : dead > 0 ? "in all topics" : "none", dead > 0 ? "warning" : "");
    },
  };
}

function charts() {
  const sync = "pipeline";
  const rates = chart({
    title: "Per second", hint: "Changes into Kafka; offsets that were written there, and that the group has committed. The end of a transaction has an offset too.", sync, format: rate,
    curves: [
      { label: "changes", name: "written", colour: "--curve-1", fill: "--curve-1-soft" },
      { label: "offsets", name: "offsets", colour: "--curve-3" },
      { label: "committed", name: "read", colour: "--curve-2" },
    ],
  });
  const lags = chart({
    title: "Lag", hint: "Offsets that the group has not committed, without the mark behind the last record (left axis); how long ago Kafka had everything of MySQL, at most (right axis)", sync, format: rate,
    curves: [
      { label: "offsets behind", name: "lag", colour: "--curve-1", fill: "--curve-1-soft" },
      { label: "Kafka behind MySQL", name: "source", colour: "--curve-2", format: duration },
    ],
  });
  const latency = chart({
    title: "Latency", hint: "From the commit in MySQL until the change is readable in Kafka, and until its line is durable in a log, by the consumers' metrics", sync, format: ms,
    curves: [
      { label: "Kafka p99", name: "p99", colour: "--curve-3" },
      { label: "log p50", name: "log_p50", colour: "--curve-2" },
      { label: "log p99", name: "log_p99", colour: "--curve-1" },
    ],
  });
  const update = () => {
    const { series } = store;
    rates.set([series.at, series.written, series.offsets, series.read]);
    lags.set([series.at, series.lag, series.source]);
    latency.set([series.at, series.p99, series.log_p50, series.log_p99]);
  };
  return { cards: [rates, lags, latency].map((one) => one.card), update, close: () => [rates, lags, latency].forEach((one) => one.close()) };
}

const kept = (partition) => String(partition);

function readers(body) {
  const { status } = store;
  if (!status) return;
  const key = JSON.stringify([status.consumers, status.free_slots]);
  if (body.dataset.key === key) return;
  body.dataset.key = key;
  if (status.consumers.length === 0) {
    replace(body, empty("No consumer is in the group.", "Start one with `consumer`."));
    return;
  }
  const line = (consumer) => {
    const [level, words] = stateOf(consumer);
    const partitions = consumer.partitions.map(kept);
    return el("li", null,
      el("span", { class: "who", title: consumer.name }, slot(consumer.name)),
      el("span", { class: "cells" }, partitions.length === 0 ? el("em", null, "no partition") : partitions.map((one) => el("span", { class: "cell" }, one))),
      chip(level, words, consumer.host));
  };
  replace(body, el("ul", { class: "readers" }, status.consumers.map(line)));
}

function happened(body) {
  const lines = store.events.slice(0, 60);
  if (lines.length === 0) {
    replace(body, empty("Nothing has happened since you watch.", "Rebalances, stops, faults and replays appear here."));
    return;
  }
  replace(body, el("ol", { class: "events" }, lines.map((event) => el("li", { class: event.level },
    el("time", { datetime: event.at, title: event.at }, clock(event.at).slice(0, 8)),
    el("i", { "aria-hidden": "true" }),
    el("span", null, el("b", null, event.subject), ` ${event.text}`)))));
}

export function open(root) {
  const [numbers, curves, picture] = [tiles(), charts(), new Picture()];
  const [consumers, events] = [el("div", { class: "body" }), el("div", { class: "body", "aria-live": "polite" })];
  replace(root,
    el("div", { class: "tiles" }, numbers.boxes),
    picture.card,
    el("div", { class: "three" }, curves.cards),
    el("div", { class: "two" },
      el("section", { class: "card" }, el("header", null, el("h2", null, "Who holds which partition")), consumers),
      el("section", { class: "card" }, el("header", null, el("h2", null, "What has happened")), events)));
  const update = () => {
    numbers.update();
    if (store.status) picture.update(store.status);
    readers(consumers);
  };
  const all = () => { update(); curves.update(); happened(events); };
  all();
  const ends = [
    on("hello", all),
    on("status", update),
    on("flow", (flow) => picture.flow(flow)),
    on("second", () => { curves.update(); numbers.update(); }),
    on("event", () => happened(events)),
  ];
  return () => { ends.forEach((end) => end()); curves.close(); picture.close(); };
}

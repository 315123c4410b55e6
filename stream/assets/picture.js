// The picture: MySQL, the producer, the partitions, the consumers and the sinks, with the changes that move along.
//
// A change waits in its partition until the group has committed it, so that a consumer that has stopped shows at once.

import { count, duration, el, failing, replace, short, slot, svg, text, unread } from "./dom.js";

/** Partitions that are drawn one by one; of more, a line for each topic. */
const PARTITIONS = 30;
const TOPICS = 12;
const CONSUMERS = 16;
/** Changes on their way at a time, and those that wait in a partition. */
const DOTS = 160;
const QUEUE = 8;
/** Milliseconds for one part of the way. */
const LEG = 420;

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const narrow = matchMedia("(max-width: 760px)");

const STATES = {
  runs: ["good", "runs"],
  stopped: ["bad", "stopped"],
  joins: ["warning", "joins"],
  elsewhere: ["", "on another machine"],
};

/** The state of a consumer: level and words. */
export function stateOf(consumer) {
  const { metrics } = consumer;
  if (consumer.is_silent) return ["warning", "no answer at /metrics"];
  if (consumer.state !== "stopped" && metrics && !metrics.is_ready) return ["warning", metrics.reason ?? "not ready"];
  return STATES[consumer.state] ?? ["", consumer.state];
}

function node(kind, title, href) {
  const [state, name, lines] = [el("i", { class: "state", "aria-hidden": "true" }), el("b", null, title), el("span", { class: "lines" })];
  const box = el(href ? "a" : "div", { class: `node node-${kind}`, href }, el("span", { class: "head" }, state, name), lines);
  return {
    box,
    set(level, texts, tip) {
      state.className = `state ${level}`;
      box.classList.toggle("is-bad", level === "bad");
      box.title = tip ?? "";
      while (lines.children.length > texts.length) lines.lastChild.remove();
      texts.forEach((line, at) => {
        if (!lines.children[at]) lines.append(el("span"));
        text(lines.children[at], line);
      });
    },
  };
}

export class Picture {
  constructor() {
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.lines = svg("svg", { class: "links", "aria-hidden": "true" });
    this.columns = el("div", { class: "columns" });
    this.stage = el("div", { class: "stage" }, this.lines, this.columns, this.canvas);
    this.note = el("span", { class: "muted" }, "waiting for the first answer");
    this.card = el("section", { class: "card picture" },
      el("header", null, el("h2", null, "Pipeline"), this.note), this.stage);
    this.dots = [];
    this.shape = null;
    this.links = new Map();
    this.frame = 0;
    this.observer = new ResizeObserver(() => this.layout());
    this.observer.observe(this.stage);
    this.colours = () => { this.palette = null; };
    addEventListener("colours", this.colours);
  }

  close() {
    this.observer.disconnect();
    removeEventListener("colours", this.colours);
    cancelAnimationFrame(this.frame);
  }

  /** Takes the new state: builds the picture when its parts have changed, else only their texts. */
  update(status) {
    this.status = status;
    const shape = JSON.stringify([
      status.tables.map((table) => [table.topic, table.partitions.length]),
      status.consumers.map((consumer) => [consumer.name, consumer.partitions]),
      hasPostgres(status), narrow.matches,
    ]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.build(status);
    }
    this.fill(status);
    this.release(status);
  }

  build(status) {
    const one = (title, ...boxes) => el("div", { class: "lane" }, el("h3", null, title), el("div", { class: "stack" }, boxes));
    this.mysql = node("mysql", "MySQL", "#/checkpoint");
    this.producer = node("producer", "cdc-producer", "#/checkpoint");
    const total = status.tables.reduce((sum, table) => sum + table.partitions.length, 0);
    this.single = total <= PARTITIONS;
    const tables = status.tables.slice(0, TOPICS);
    this.parts = new Map();
    this.groups = new Map();
    const groups = tables.map((table) => this.group(table));
    const more = status.tables.length - tables.length;
    if (more > 0) groups.push(el("p", { class: "muted" }, `and ${more} more topics`));
    if (groups.length === 0) groups.push(el("p", { class: "muted" }, "no topic yet"));
    const shown = status.consumers.slice(0, CONSUMERS);
    this.consumers = new Map(shown.map((consumer) => [consumer.name, node("consumer", slot(consumer.name))]));
    const rest = status.consumers.length - shown.length;
    this.logs = node("sink", "JSON logs");
    this.postgres = hasPostgres(status) ? node("sink", "PostgreSQL") : null;
    const readers = [...this.consumers.values()].map((one) => one.box);
    if (readers.length === 0) readers.push(el("p", { class: "muted" }, "no consumer"));
    if (rest > 0) readers.push(el("p", { class: "muted" }, `and ${rest} more`));
    replace(this.columns,
      one("Source", this.mysql.box), one("Capture", this.producer.box), one(tables.length > 1 ? "Topics" : "Topic", ...groups),
      one("Consumers", ...readers), one("Sinks", this.logs.box, this.postgres?.box ?? ""));
    this.dots = [];
    // The lines follow each box that gets other texts.
    this.observer.disconnect();
    for (const box of [this.stage, ...this.columns.querySelectorAll(".node, .topic")]) this.observer.observe(box);
  }

  group(table) {
    const box = el("div", { class: "topic" }, el("a", { class: "topic-name", href: topicLink(table.topic) }, table.topic));
    this.groups.set(table.topic, box);
    const list = el("div", { class: this.single ? "partitions" : "partitions dense" });
    for (const partition of table.partitions) {
      const bar = el("progress", { max: "1", value: "0", "aria-hidden": "true" });
      const [lag, end] = [el("span", { class: "lag" }), el("span", { class: "end" })];
      const cell = el("a", { class: "partition", href: topicLink(table.topic, partition.number) }, el("span", { class: "number" }, String(partition.number)), bar, end, lag);
      list.append(cell);
      this.parts.set(`${table.topic}/${partition.number}`, { cell, bar, lag, end });
    }
    box.append(list);
    return box;
  }

  fill(status) {
    const { source, reached, producer } = status;
    const { faults } = status;
    this.mysql.set(source ? "good" : "bad", source ? [source.version, ...positionOf(source.end)] : [failing(faults, "MySQL") ?? "unknown"], source?.address);
    this.producer.set(...producerOf(producer, reached, status.tables));
    const kafka = failing(faults, "Kafka");
    for (const box of this.groups.values()) box.classList.toggle("is-bad", Boolean(kafka));
    const busiest = Math.max(50, ...status.tables.flatMap((table) => table.partitions.map(unread)));
    for (const table of status.tables) {
      for (const partition of table.partitions) {
        const part = this.parts.get(`${table.topic}/${partition.number}`);
        if (!part) continue;
        const bad = partition.waits || !partition.holder;
        part.cell.className = `partition ${bad ? "is-bad" : unread(partition) > 0 ? "is-busy" : ""}`;
        part.bar.max = busiest;
        part.bar.value = unread(partition);
        text(part.end, short(partition.end));
        text(part.lag, unread(partition) > 0 ? short(unread(partition)) : "");
        const holder = partition.holder ? `${slot(partition.holder)}${partition.waits ? ", which has stopped" : ""}` : "nobody";
        part.cell.title = `partition ${partition.number}: ends at ${count(partition.end)}, ${count(unread(partition))} not committed by the group, held by ${holder}`;
      }
    }
    for (const consumer of status.consumers) {
      const shown = this.consumers.get(consumer.name);
      const [level, words] = stateOf(consumer);
      const number = consumer.partitions.length;
      shown?.set(level || "good", [level === "" || level === "good" ? (number === 0 ? "no partition" : `${number} ${number === 1 ? "partition" : "partitions"}`) : words], `${consumer.name} ${consumer.host}: ${words}`);
    }
    const dead = status.consumers.filter((one) => one.state === "stopped").length;
    this.logs.set(status.consumers.length > dead ? "good" : "bad", ["consumer_logs/"]);
    this.fillPostgres(status);
    const total = status.tables.reduce((sum, table) => sum + table.partitions.reduce((all, one) => all + one.end - one.begin, 0), 0);
    if (kafka) text(this.note, `Kafka ${kafka}; this is what it said last`);
    else text(this.note, calm.matches ? `${short(total)} offsets in the topics` : `${short(total)} offsets in the topics; each dot is a change, at most 20 a second are drawn`);
  }

  fillPostgres(status) {
    if (!this.postgres) return;
    const away = failing(status.faults, "PostgreSQL");
    const behind = status.tables.reduce((sum, table) => sum + (table.postgres_behind ?? 0), 0);
    const parked = status.tables.reduce((sum, table) => sum + (table.parked_keys ?? 0), 0);
    const lines = [away ?? (behind > 0 ? `${short(behind)} behind` : "has all")];
    if (parked > 0) lines.push(`${count(parked)} ${parked === 1 ? "key" : "keys"} parked`);
    this.postgres.set(away ? "bad" : parked > 0 ? "warning" : "good", lines);
  }

  // ---- lines

  layout() {
    if (!this.status || !this.mysql) return;
    const frame = this.stage.getBoundingClientRect();
    if (frame.width === 0) return;
    const scale = Math.min(devicePixelRatio || 1, 2);
    this.canvas.width = Math.round(frame.width * scale);
    this.canvas.height = Math.round(frame.height * scale);
    this.scale = scale;
    this.lines.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    const upright = narrow.matches;
    const side = (box, isEnd) => {
      const place = box.getBoundingClientRect();
      const [x, y] = [place.left - frame.left, place.top - frame.top];
      if (upright) return [x + place.width / 2, y + (isEnd ? place.height : 0)];
      return [x + (isEnd ? place.width : 0), y + place.height / 2];
    };
    this.links.clear();
    const paths = [];
    const link = (name, from, to, kind) => {
      const [a, d] = [side(from, true), side(to, false)];
      const reach = upright ? (d[1] - a[1]) / 2 : (d[0] - a[0]) / 2;
      const [b, c] = upright ? [[a[0], a[1] + reach], [d[0], d[1] - reach]] : [[a[0] + reach, a[1]], [d[0] - reach, d[1]]];
      this.links.set(name, [a, b, c, d]);
      paths.push(svg("path", { d: `M${a}C${b} ${c} ${d}`, class: kind ?? "" }));
    };
    link("source", this.mysql.box, this.producer.box);
    for (const table of this.status.tables) {
      const group = this.groups.get(table.topic);
      if (!group) continue;
      if (!this.single) link(`in ${table.topic}`, this.producer.box, group);
      const joined = new Set();
      for (const partition of table.partitions) {
        const name = `${table.topic}/${partition.number}`;
        const cell = this.single ? this.parts.get(name).cell : group;
        if (this.single) link(`in ${name}`, this.producer.box, cell);
        const reader = this.consumers.get(partition.holder);
        if (!reader) continue;
        const out = `out ${name} ${partition.holder}`;
        if (!this.single && joined.has(partition.holder)) { this.links.set(out, this.links.get(`out ${table.topic} ${partition.holder}`)); continue; }
        joined.add(partition.holder);
        link(out, cell, reader.box, partition.waits ? "is-bad" : "");
        if (!this.single) this.links.set(`out ${table.topic} ${partition.holder}`, this.links.get(out));
      }
    }
    for (const [name, reader] of this.consumers) {
      link(`log ${name}`, reader.box, this.logs.box);
      if (this.postgres) link(`sql ${name}`, reader.box, this.postgres.box);
    }
    replace(this.lines, paths);
  }

  // ---- dots

  /** Sends the changes on their way that the server has chosen to be shown. */
  flow({ shown }) {
    if (calm.matches || document.hidden || !this.status) return;
    const now = performance.now();
    shown.forEach((change, at) => {
      if (this.dots.length >= DOTS) return;
      this.dots.push({ change, leg: "source", begin: now + at * (250 / shown.length) });
    });
    this.draw();
  }

  /** Lets the changes leave their partitions that the group has committed. */
  release(status) {
    const now = performance.now();
    const partitions = new Map(status.tables.flatMap((table) => table.partitions.map((one) => [`${table.topic}/${one.number}`, one])));
    for (const dot of this.dots) {
      if (dot.leg !== "waits") continue;
      const partition = partitions.get(placeOf(dot.change));
      if (!partition || (partition.committed !== null && partition.committed > dot.change.offset)) {
        dot.leg = "out";
        dot.reader = partition?.holder;
        dot.begin = now + Math.random() * 700;
      }
    }
    if (this.dots.length > 0) this.draw();
  }

  /** Where the dot is; `null` when it has arrived. */
  step(dot, now) {
    const where = placeOf(dot.change);
    const into = this.links.get(`in ${where}`) ?? this.links.get(`in ${dot.change.topic}`);
    for (;;) {
      const part = (now - dot.begin) / LEG;
      if (dot.leg === "waits") return into?.[3] ?? null;
      if (part < 0) return dot.leg === "out" ? (into?.[3] ?? null) : dot;
      const link = { source: this.links.get("source"), in: into, out: this.links.get(`out ${where} ${dot.reader}`), log: this.links.get(`log ${dot.reader}`), sql: this.links.get(`sql ${dot.reader}`) }[dot.leg];
      if (!link) return null;
      if (part < 1) return along(link, part);
      if (dot.leg === "log" || dot.leg === "sql") return null;
      if (dot.leg === "in") { dot.leg = "waits"; continue; }
      if (dot.leg === "out" && this.postgres) this.dots.push({ change: dot.change, leg: "sql", reader: dot.reader, begin: dot.begin + LEG });
      dot.leg = { source: "in", out: "log" }[dot.leg];
      dot.begin += LEG;
    }
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame((now) => {
      const context = this.canvas.getContext("2d");
      context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
      context.clearRect(0, 0, this.canvas.width, this.canvas.height);
      this.palette ??= { dot: style("--dot"), hole: style("--surface") };
      const queues = new Map();
      let moves = false;
      const kept = [];
      // A dot may add another one, which is drawn in the next frame.
      for (const dot of [...this.dots]) {
        const at = this.step(dot, now);
        if (at === null) continue;
        const isQueued = dot.leg === "waits";
        const where = placeOf(dot.change);
        const before = queues.get(where) ?? 0;
        if (isQueued) queues.set(where, before + 1);
        if (isQueued && before >= (narrow.matches ? 2 : QUEUE)) continue;
        kept.push(dot);
        moves ||= !isQueued;
        if (at === dot) continue;
        const shift = isQueued ? before * 7 + 5 : 0;
        const [x, y] = narrow.matches ? [at[0], at[1] - shift] : [at[0] - shift, at[1]];
        this.paint(context, x, y, dot.change.op === "d");
      }
      const added = this.dots.filter((dot) => dot.leg === "sql" && !kept.includes(dot) && dot.begin >= now - LEG);
      this.dots = kept.concat(added);
      if (moves || added.length > 0) this.draw();
    });
  }

  paint(context, x, y, isDelete) {
    context.beginPath();
    context.arc(x, y, isDelete ? 3.2 : 3.6, 0, 2 * Math.PI);
    context.fillStyle = isDelete ? this.palette.hole : this.palette.dot;
    context.fill();
    context.lineWidth = 1.4;
    context.strokeStyle = this.palette.dot;
    if (isDelete) context.stroke();
  }
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
/** It is on: it has told what it has, or could not be asked. */
const hasPostgres = ({ tables, faults }) => tables.some((table) => table.parked_keys !== null) || Boolean(failing(faults, "PostgreSQL"));
const placeOf = (change) => `${change.topic}/${change.partition}`;

function along([a, b, c, d], part) {
  // Slow at both ends.
  const t = part * part * (3 - 2 * part);
  const u = 1 - t;
  return [0, 1].map((i) => u * u * u * a[i] + 3 * u * u * t * b[i] + 3 * u * t * t * c[i] + t * t * t * d[i]);
}

export function topicLink(topic, partition) {
  const query = new URLSearchParams({ topic });
  if (partition !== undefined) { query.set("partition", partition); query.set("tab", "messages"); }
  return `#/topics?${query}`;
}

/** The file and the offset of `binlog.000003:1941840`. */
function positionOf(end) {
  const [, file, offset] = /^(.*):(\d+)$/.exec(end) ?? [null, end, ""];
  return offset === "" ? [file] : [file, `at ${count(Number(offset))}`];
}

function producerOf(producer, reached, tables) {
  const running = tables.find((table) => table.snapshot)?.snapshot;
  const lines = [];
  const stopped = !producer.holder && !producer.metrics && producer.has_folder;
  const level = stopped ? "bad" : producer.metrics && !producer.metrics.is_ready ? "warning" : "good";
  if (stopped) lines.push("stopped");
  else if (producer.metrics && !producer.metrics.is_ready) lines.push(producer.metrics.reason ?? "not ready");
  else if (running) lines.push(`snapshot: ${short(running.rows)}${running.of ? ` of ${short(running.of)}` : ""} rows`);
  else lines.push(producer.holder || producer.metrics ? "runs" : "state unknown");
  if (running?.seconds_left) lines.push(`${duration(running.seconds_left)} left`);
  if (reached) lines.push(`epoch ${reached.epoch}`);
  return [level, lines, reached ? `everything up to ${reached.position}, committed ${reached.committed_at}` : ""];
}

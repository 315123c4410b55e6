// The page: its views, the colours, the line to the server.

import { chip, count, duration, el, fault, refill, replace, slot, text } from "./dom.js";
import { connect, on, store } from "./store.js";
import * as changes from "./changes.js";
import * as checkpoint from "./checkpoint.js";
import * as letters from "./letters.js";
import * as pipeline from "./pipeline.js";
import * as rows from "./rows.js";
import * as topics from "./topics.js";

const ICONS = {
  pipeline: "M3 12h4m10 0h4M7 8h10v8H7z",
  changes: "M4 7h16M4 12h10M4 17h13",
  rows: "M4 18 9 11l4 4 7-9M4 21h16",
  topics: "M4 5h16v4H4zM4 11h16v4H4zM4 17h16v3H4z",
  letters: "M12 4 2.5 20h19zM12 10v4m0 2.5v.5",
  checkpoint: "M12 3v9l5 3M21 12a9 9 0 1 1-3-6.7M18 2v4h-4",
};

const VIEWS = [
  ["pipeline", "Pipeline", pipeline],
  ["changes", "Changes", changes],
  ["rows", "Rows", rows],
  ["topics", "Topics", topics],
  ["letters", "Dead letters", letters],
  ["checkpoint", "Checkpoint", checkpoint],
];

const place = { main: document.getElementById("main"), view: document.getElementById("view"), title: document.getElementById("title") };
let closeView = () => {};
let shown = null;

/** `#/rows?table=a.b&key=1` → its view and parameters. */
function parse() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const name = VIEWS.some(([known]) => known === path) ? path : "pipeline";
  return { name, parameters: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

function route() {
  const { name, parameters } = parse();
  const [, title, view] = VIEWS.find(([known]) => known === name);
  closeView();
  for (const open of document.querySelectorAll("dialog[open]")) open.close();
  text(place.title, title);
  document.title = `${title} · Stream console`;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const root = el("div", { class: `view view-${name}` });
  refill(place.view, () => {
    replace(place.view, root);
    closeView = view.open(root, parameters) ?? (() => {});
  });
  // Keyboard and screen reader begin with what is new; in the same view a control keeps the focus, if it is still there.
  const hasLost = document.activeElement === document.body;
  if (shown !== null && (shown !== name || hasLost)) place.main.focus({ preventScroll: true });
  if (shown !== name) scrollTo(0, 0);
  shown = name;
}

function icon(name) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  drawing.append(path);
  return drawing;
}

function menu() {
  const item = ([name, title], place) => el("li", null,
    el("a", { href: `#/${name}`, "data-view": name, title: `${title} (key ${place + 1})` }, icon(name), el("span", null, title),
      name === "letters" && el("b", { class: "badge", id: "letters-count", hidden: true })));
  replace(document.getElementById("views"), VIEWS.map(item));
}

// ---- colours

const THEMES = [["light", "Light"], ["system", "Auto"], ["dark", "Dark"]];

function setTheme(chosen) {
  const root = document.documentElement;
  if (chosen === "system") delete root.dataset.theme;
  else root.dataset.theme = chosen;
  try {
    if (chosen === "system") localStorage.removeItem("theme");
    else localStorage.setItem("theme", chosen);
  } catch { /* It lasts as long as the page. */ }
  theme();
}

function theme() {
  const chosen = document.documentElement.dataset.theme ?? "system";
  for (const button of document.querySelectorAll("#theme button")) button.setAttribute("aria-pressed", String(chosen === button.value));
  showColours();
}

function themes() {
  const button = ([name, label]) => el("button", { type: "button", value: name, onclick: () => setTheme(name) }, label);
  replace(document.getElementById("theme"), THEMES.map(button));
  theme();
}

// ---- the state of all

/** What needs attention beside the faults: each with its part, the reason and what to do. */
function concerns(status) {
  const list = [];
  const add = (part, short, reason, remedy) => list.push({ part, short, reason, what_to_do: remedy });
  const { producer, source } = status;
  if (!producer.holder && !producer.metrics && producer.has_folder) add("cdc-producer", "has stopped", "has stopped; no change gets into Kafka", "start it");
  if (producer.metrics && !producer.metrics.is_ready) add("cdc-producer", "is not ready", `is not ready: ${producer.metrics.reason ?? "it gives no reason"}`);
  if (source?.is_same_server === false) add("MySQL", "is another server", `another server answers: ${source.server_uuid}`, "let the producer reach the server of its position, or read docs/operations.md");
  for (const consumer of status.consumers) {
    const name = slot(consumer.name);
    const partitions = consumer.partitions.length > 0 ? `; ${consumer.partitions.length === 1 ? "partition" : "partitions"} ${consumer.partitions.join(", ")} wait, ${duration(status.session_timeout)} at most` : "";
    if (consumer.state === "stopped") add(name, "has stopped", `has stopped${partitions}`, "start a consumer: it takes the place and its partitions");
    else if (consumer.is_silent && consumer.state === "elsewhere") add(name, "gives no answer", "gave answers at /metrics and gives none now: it may have stopped, or hang", "look for its process where its logs are: end one that hangs, and start a consumer");
    else if (consumer.is_silent) add(name, "gives no answer", "gives no answer at /metrics", "wait; if it stays so, it hangs: end its process, and start a consumer");
    else if (consumer.metrics && !consumer.metrics.is_ready) add(name, "is not ready", `is not ready: ${consumer.metrics.reason ?? "it gives no reason"}`);
  }
  const nobody = status.tables.flatMap((table) => table.partitions).filter((partition) => !partition.holder).length;
  if (nobody > 0 && status.consumers.length > 0 && !status.consumers.some((one) => one.state === "joins")) add("Consumers", "leave partitions", `nobody reads ${nobody} partitions`, "wait for the rebalance; then start a consumer");
  if (nobody > 0 && status.consumers.length === 0) add("Consumers", "do not run", "no consumer is in the group", "start one with `consumer`");
  return list;
}

function health() {
  const { status, isConnected } = store;
  const link = document.getElementById("link");
  link.className = `chip ${isConnected ? "good" : "bad"}`;
  replace(link, el("i", { "aria-hidden": "true" }), isConnected ? "live" : "not connected");
  const alerts = document.getElementById("alerts");
  if (!status) {
    replace(document.getElementById("health"), chip("", isConnected ? "asking all parts" : "connecting"));
    if (!isConnected && store.hello === null) return;
  }
  const faults = status?.faults ?? [];
  const list = status ? concerns(status) : [];
  const away = [...new Map(faults.map((one) => [one.part, one])).values()].map(({ part, refuses }) => `${part} ${refuses ? "refuses" : "is away"}`);
  const bad = away.concat(list.map((one) => `${one.part} ${one.short}`));
  const state = bad.length === 0 ? chip("good", "everything works") : chip("bad", bad.length === 1 ? bad[0] : `${bad[0]}, and ${bad.length - 1} more`, bad.join("\n"));
  const key = JSON.stringify([isConnected, Boolean(status), bad, faults.concat(list).map((one) => [one.part, one.reason])]);
  if (key === health.last) return;
  health.last = key;
  if (status) replace(document.getElementById("health"), isConnected ? state : chip("warning", "not live"));
  const lost = !isConnected && { part: "Console", reason: "the line to the console is cut; what you see is old", what_to_do: "the page connects again as soon as `stream console` answers" };
  replace(alerts, lost && fault(lost), faults.map(fault), list.slice(0, 5).map(fault));
}

function letterCount() {
  const number = (store.status?.tables ?? []).reduce((sum, table) => sum + table.dead_letters, 0);
  const badge = document.getElementById("letters-count");
  badge.hidden = number === 0;
  text(badge, count(number));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea") || document.querySelector("dialog[open]")) return;
  const view = VIEWS[Number(event.key) - 1];
  if (view) location.hash = `#/${view[0]}`;
  else if (event.key === "/") {
    const search = document.querySelector("#view input[type=search]");
    if (search) { event.preventDefault(); search.focus(); }
  }
}

menu();
themes();
addEventListener("hashchange", route);
document.addEventListener("keydown", keys);
// The address names a view, so this link can't name a place of the page.
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); place.main.focus(); });
on("link", health);
on("status", () => { health(); letterCount(); });
on("hello", (hello) => text(document.getElementById("about"), `group ${hello.group} · ${hello.version}`));
health();
connect();
// The charts' library is a script of its own, which is loaded before this runs.
route();

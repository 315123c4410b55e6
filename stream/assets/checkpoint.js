// The checkpoint: how far the topics are, and a replay, which needs --allow-control, the token and a second look.

import { count, duration, el, empty, failing, fault, moment, replace } from "./dom.js";
import { openDialog } from "./detail.js";
import { ask, on, store } from "./store.js";
import { visible } from "./values.js";

const facts = (list) => el("dl", { class: "facts" }, list.map(([name, shown]) => el("div", null, el("dt", null, name), el("dd", null, shown ?? "–"))));
const card = (title, ...content) => el("section", { class: "card" }, el("header", null, el("h2", null, title)), content);

function present(body) {
  const { status } = store;
  if (!status) return;
  const { reached, source, producer } = status;
  const mysql = `MySQL ${failing(status.faults, "MySQL") ?? "was not asked"}.`;
  const key = JSON.stringify([reached, source, producer, mysql]);
  if (body.dataset.key === key) return;
  body.dataset.key = key;
  const where = reached ? facts([
    ["Epoch", count(reached.epoch)], ["Position", el("code", null, reached.position)], ["Committed in MySQL", moment(reached.committed_at)],
    ["Server of the position", el("code", null, reached.server_uuid)], ["Prepared XA transactions", count(reached.prepared)],
    ["GTIDs", reached.gtid_set ? el("code", null, visible(reached.gtid_set)) : "none"],
  ]) : empty("Kafka has no position yet.", "The first start of the producer begins with a snapshot.");
  const server = source ? facts([
    ["Server", `${source.version} at ${source.address}`], ["End of the binlog", el("code", null, source.end)],
    ["Kafka is behind", source.is_same_server === false ? "another server answers" : source.behind_bytes === 0 ? "nothing is missing" : `${count(source.behind_bytes)} bytes, ${duration(source.behind_seconds)}`],
    ["Needed binlog is kept for", source.purge_seconds === null ? "as long as nobody purges it" : duration(source.purge_seconds)],
    ["Producer", producer.holder ?? (producer.metrics ? `answers at ${producer.metrics.address}` : producer.has_folder ? "stopped" : "unknown here")],
  ]) : empty(mysql, "");
  replace(body, card("In Kafka", where), card("At the source", server));
}

const KINDS = {
  snapshot: ["Everything again", "A snapshot of every table, then the binlog. Works at any time; readers get each row once more."],
  since: ["Every change since a time", "Reads the binlog again from that time on. Refused when the binlogs of that time are gone."],
  table: ["One table again", "A snapshot of one table, while the others continue."],
};

function replay(body) {
  const isAllowed = store.hello?.control === true;
  if (!isAllowed) {
    const table = store.status?.tables[0]?.name ?? "DATABASE.TABLE";
    replace(body, el("p", { class: "muted" }, "This console only reads. It was started without --allow-control; these commands do the same on a terminal:"),
      el("code", { class: "command" }, `stream checkpoint reset\nstream checkpoint set 2026-11-21T04:00:00Z\nstream snapshot ${visible(table)}`));
    return;
  }
  let kind = "snapshot";
  const time = el("input", { type: "datetime-local", step: "1", "aria-label": "Since" });
  const tables = el("select", { "aria-label": "Table" }, (store.status?.tables ?? []).map((one) => el("option", { value: one.name }, visible(one.name))));
  const token = el("input", { type: "password", autocomplete: "off", "aria-label": "Token", placeholder: "the content of the token file" });
  const problem = el("div", { role: "alert" });
  const more = el("div");
  const choose = (name) => { kind = name; replace(more, name === "since" ? el("label", null, "Since (your local time)", time) : name === "table" ? el("label", null, "Table", tables) : ""); };
  const options = Object.entries(KINDS).map(([name, [title, hint]]) => el("label", { class: "choice" },
    el("input", { type: "radio", name: "kind", value: name, checked: name === kind, onchange: () => choose(name) }),
    el("span", null, el("b", null, title), el("br"), el("span", { class: "muted" }, hint))));
  const wanted = () => ({ kind, ...(kind === "since" && { since: time.value && new Date(time.value).toISOString() }), ...(kind === "table" && { table: tables.value }) });
  const send = (path, content) => ask(path, null, {
    method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${token.value.trim()}` }, body: JSON.stringify(content),
  });
  const failed = (place) => (error) => replace(place, fault({ part: "Refused", reason: error.message, what_to_do: error.remedy }));
  const look = (event) => {
    event.preventDefault();
    replace(problem);
    send("/api/replay/plan", wanted()).then((plan) => confirm(plan, wanted(), send, failed)).catch(failed(problem));
  };
  replace(body, el("form", { class: "form", onsubmit: look }, options, more, el("label", null, "Token", token), problem,
    el("div", null, el("button", { class: "primary" }, "See what would happen"))));
}

/** What will happen, and the word that lets it happen. */
function confirm(plan, wanted, send, failed) {
  const [word, result] = [el("input", { type: "text", autocomplete: "off", "aria-label": "Word of confirmation" }), el("div", { role: "alert" })];
  const go = el("button", { class: "danger", disabled: true }, "Replay");
  word.addEventListener("input", () => { go.disabled = word.value.trim() !== plan.word; });
  const form = el("form", { class: "form", onsubmit: (event) => {
    event.preventDefault();
    if (word.value.trim() !== plan.word) return;
    go.disabled = true;
    send("/api/replay", { ...wanted, word: word.value.trim() }).then((answer) => {
      replace(form, el("div", { class: "alert" }, el("strong", null, "Asked."), el("span", null, answer.text)));
    }).catch((error) => { go.disabled = false; failed(result)(error); });
  } },
  el("ul", { class: "plan" }, plan.lines.map((line) => el("li", null, line))),
  el("label", null, el("span", null, "To do this, write ", el("code", null, plan.word)), word), result, el("div", null, go));
  openDialog("What will happen", form);
  word.focus();
}

export function open(root) {
  const [now, form] = [el("div", { class: "two" }), el("div")];
  replace(root, now, card("Replay", form));
  const update = () => present(now);
  update();
  replay(form);
  const ends = [on("status", update), on("hello", () => replay(form))];
  return () => ends.forEach((end) => end());
}

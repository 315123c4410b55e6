// A change in full, in a dialog: both rows, its record, and the ways from there.

import { bytes, el, fault, replace } from "./dom.js";
import { ask } from "./store.js";
import { comparison, facts, rowLink } from "./values.js";

let dialog = null;

/** A dialog with a head and a body, closed by Esc, its button or a click beside it. Returns the body. */
export function openDialog(title, ...content) {
  dialog?.remove();
  const body = el("div", { class: "dialog-body" }, content);
  const close = el("button", { type: "button", class: "ghost", "aria-label": "Close", onclick: () => own.close() }, "✕");
  const own = el("dialog", { "aria-label": title, onclick: (event) => { if (event.target === own) own.close(); } },
    el("header", null, el("h2", null, title), close), body);
  own.addEventListener("close", () => own.remove());
  dialog = own;
  document.body.append(own);
  own.showModal();
  return body;
}

/** Shows a change; the server is asked for its full values and for the row before it. */
export function showChange(change) {
  const waiting = el("p", { class: "muted" }, "reading the record");
  const part = el("div", null, change.row || change.before ? comparison(change) : "", waiting);
  const trace = `#/rows?${new URLSearchParams({ table: change.table, key: change.key, partition: change.partition, offset: change.offset })}`;
  const ways = el("p", { class: "ways" },
    el("a", { class: "button", href: trace }, "Trace it"),
    el("a", { class: "button", href: rowLink(change) }, "History of the row"),
    el("a", { class: "button", href: `#/topics?${new URLSearchParams({ topic: change.topic, partition: change.partition, tab: "messages", from: Math.max(0, change.offset - 10) })}` }, "Its neighbours in the partition"));
  const body = openDialog(`${change.table} ${change.key.slice(0, 80)}`, ways, part, facts(change));
  const { topic, partition, offset } = change;
  ask("/api/change", { topic, partition, offset }).then((full) => {
    const one = full.change;
    replace(part, one.unreadable ? fault({ part: "This record can't be read", reason: one.unreadable }) : comparison(one));
    body.lastChild.replaceWith(facts(one, [
      ["Size", `key ${bytes(full.key_bytes)}, value ${bytes(full.value_bytes)}`],
      ["Header source", full.header ?? "none"],
    ]));
  }).catch((error) => replace(part, change.row ? comparison(change) : "", fault({ part: "The record", reason: error.message, what_to_do: error.remedy })));
}

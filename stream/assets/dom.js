// Elements and formats. Text from data gets into the page as text only: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.setAttribute("class", value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element with attributes, listeners (`onclick`) and children; a string becomes a text node. */
export const el = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
/** The same in SVG. */
export const svg = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

/** Sets the text of an element if it differs. */
export function text(element, value) {
  const shown = value ?? "";
  if (element.textContent !== shown) element.textContent = shown;
}

/** Replaces all children. */
export const replace = (element, ...children) =>
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));

const CONTROLS = "a, button, select, input";
const labelOf = (control) => `${control.tagName} ${control.getAttribute("aria-label") ?? control.textContent}`;

/** Changes what an element has. The control that had the focus has it afterwards, if one with its label is there. */
export function refill(element, change) {
  const had = document.activeElement;
  const label = element.contains(had) && had.matches(CONTROLS) ? labelOf(had) : null;
  change();
  if (label === null || element.contains(document.activeElement)) return;
  const again = [...element.querySelectorAll(CONTROLS)].find((control) => labelOf(control) === label);
  again?.focus({ preventScroll: true });
}

/** Replaces a list, and keeps the focus on the same line, or on the list. */
export function redraw(body, next) {
  const places = () => [...body.querySelectorAll(".scroll, tr")];
  const focused = places().indexOf(document.activeElement);
  replace(body, next);
  places()[focused]?.focus({ preventScroll: true });
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** `1,234,567`; a dash for what is unknown. */
export const count = (number) => (number === null || number === undefined ? "–" : whole.format(number));

/** A count on little space: `1,234`, `12.3 k`, `4.5 M`. */
export function short(number) {
  if (number === null || number === undefined) return "–";
  if (number < 10_000) return whole.format(number);
  for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (number >= unit) return `${(number / unit).toFixed(number >= 100 * unit ? 0 : 1)} ${name}`;
  }
  return whole.format(number);
}

/** A rate: `0.4`, `12`, `1,234`. */
export function rate(number) {
  if (number === null || number === undefined) return "–";
  return number > 0 && number < 10 ? number.toFixed(1) : short(number);
}

/** A length of time in the two largest units that matter. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.max(0, seconds);
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 59.5) return `${Math.round(s)} s`;
  const two = (large, small, names) => (small === 0 ? `${large} ${names[0]}` : `${large} ${names[0]} ${small} ${names[1]}`);
  const all = Math.round(s);
  if (s < 3600) return two(Math.floor(all / 60), all % 60, ["min", "s"]);
  if (s < 86400) return two(Math.floor(all / 3600), Math.floor((all % 3600) / 60), ["h", "min"]);
  return two(Math.floor(all / 86400), Math.floor((all % 86400) / 3600), ["d", "h"]);
}

/** Bytes: `12.5 KiB`. */
export function bytes(number) {
  if (number === null || number === undefined) return "–";
  if (number < 1024) return `${number} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let [size, unit] = [number / 1024, 0];
  while (size >= 1024 && unit + 1 < units.length) [size, unit] = [size / 1024, unit + 1];
  return `${size.toFixed(1)} ${units[unit]}`;
}

const pad = (number, width = 2) => String(number).padStart(width, "0");

/** The time of day here, with milliseconds: `14:03:07.123`. */
export function clock(time) {
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return "–";
  return `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}.${pad(at.getMilliseconds(), 3)}`;
}

/** Date and time here: `2026-11-30 14:03:07.123`. */
export function moment(time) {
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return "–";
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${clock(time)}`;
}

/** A time of day whose tooltip is the exact time. */
export const timeOf = (time) => el("time", { datetime: String(time), title: String(time) }, clock(time));

/** The name of a consumer without its folder: `consumer_3-k7x2m9qa` is `consumer_3`. */
export const slot = (name) => name.replace(/-[0-9a-z]{8}$/, "");

export const OPS = { c: "create", u: "update", d: "delete", r: "snapshot" };

/** Offsets that the group has not committed and that may hold records: the last one is always the mark of a transaction. */
export const unread = (partition) => Math.max(0, partition.lag - 1);

/** The badge of an operation. */
export const op = (letter) => el("span", { class: `op op-${letter in OPS ? letter : "x"}` }, OPS[letter] ?? String(letter));

/** A chip with a status colour: good, warning, bad, or none. */
export const chip = (level, label, title) => el("span", { class: `chip ${level}`, title }, el("i", { "aria-hidden": "true" }), label);

/** A table: heads are `[label, class]`. */
export function table(heads, rows, label) {
  const head = el("thead", null, el("tr", null, heads.map(([name, kind]) => el("th", { class: kind, scope: "col" }, name))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    el("table", null, head, el("tbody", null, rows)));
}

/** A table's row, whose cells are strings or nodes; with `open` it is also a button. */
export function row(heads, cells, open) {
  const cell = (content, at) => el("td", { class: heads[at]?.[1] }, content);
  const line = el("tr", null, cells.map(cell));
  if (open) {
    fill(line, {
      class: "opens", tabindex: "0",
      onclick: open,
      onkeydown: (event) => {
        if (event.target === line && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); open(); }
      },
    }, []);
  }
  return line;
}

/** What a view shows when there is nothing. */
export const empty = (title, hint) => el("div", { class: "empty" }, el("p", null, title), hint && el("p", { class: "muted" }, hint));

/** What a part does instead of an answer; undefined when it has no fault. */
export function failing(faults, part) {
  const found = faults.find((one) => one.part === part);
  return found && (found.refuses ? "refuses" : "does not answer");
}

/** A fault with its remedy. */
export const fault = ({ part, reason, what_to_do: remedy }) => el("div", { class: "alert bad" },
  el("strong", null, part), el("span", null, reason), remedy && el("span", { class: "remedy" }, `What to do: ${remedy}`));

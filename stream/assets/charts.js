// Curves over time, with uPlot. Their values stand in text above them, also for those who don't see the curves.

import { el, text } from "./dom.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const FONT = "11px system-ui, sans-serif";

/** The labels of a time axis: seconds on a short one, days on a long one. */
function times(plot, splits) {
  const span = plot.scales.x.max - plot.scales.x.min;
  const pad = (part) => String(part).padStart(2, "0");
  return splits.map((seconds) => {
    const at = new Date(seconds * 1000);
    const time = `${pad(at.getHours())}:${pad(at.getMinutes())}`;
    if (span > 36 * 3600) return `${pad(at.getMonth() + 1)}-${pad(at.getDate())}${span < 5 * 86400 ? ` ${time}` : ""}`;
    return span < 300 ? `${time}:${pad(at.getSeconds())}` : time;
  });
}

/** The axes: time, values at the left, and values of another unit at the right, if a curve has one. */
function axes(format, other) {
  const stroke = () => colour("--muted");
  const common = { stroke, font: FONT, ticks: { show: false } };
  const upright = (write) => ({ ...common, size: 52, space: 36, values: (_, values) => values.map((v) => (v === null ? "" : write(v))) });
  const list = [
    { ...common, grid: { show: false }, space: 70, size: 24, values: times },
    { ...upright(format), grid: { stroke: () => colour("--line"), width: 1 } },
  ];
  if (other) list.push({ ...upright(other), scale: "other", side: 1, grid: { show: false } });
  return list;
}

/**
 * A card with curves. `curves` are `{name, label, colour, fill, steps, format}`, where `colour` names a property of the style;
 * `format` writes a value, that of a curve its values if they have another unit, whose axis is at the right. Returns `{card, set(data), close}`: `data` is `[at, ...curves]`.
 */
export function chart({ title, hint, curves, format, height = 150, points = false, sync }) {
  const values = curves.map(() => el("b", null, "–"));
  const legend = el("div", { class: "legend" }, curves.map((curve, at) =>
    el("span", null, el("i", { class: `mark mark-${curve.colour.replace("--", "")}`, "aria-hidden": "true" }), `${curve.label} `, values[at])));
  const place = el("div", { class: "plot" });
  const card = el("section", { class: "card chart" },
    el("header", null, el("h2", { title: hint }, title), legend), place);
  let data = [[], ...curves.map(() => [])];
  let plot = null;

  const show = (index) => curves.forEach((_, at) => {
    const list = data[at + 1];
    const value = index === null || index === undefined ? list.findLast((v) => v !== null) : list[index];
    text(values[at], value === null || value === undefined ? "–" : (curves[at].format ?? format)(value));
  });
  const other = curves.find((curve) => curve.format)?.format;
  const range = (_, low, high) => bounds(low, high, points);
  const make = () => {
    plot?.destroy();
    const options = {
      width: Math.max(place.clientWidth, 120), height,
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, sync: sync && { key: sync }, drag: { x: false, y: false } },
      scales: { x: { time: true }, y: { range }, ...(other && { other: { range } }) },
      axes: axes(format, other),
      padding: [8, other ? 0 : 22, 0, 0],
      series: [{}, ...curves.map((curve) => ({
        label: curve.label,
        scale: curve.format ? "other" : "y",
        stroke: () => colour(curve.colour),
        width: 1.6,
        fill: curve.fill ? () => colour(curve.fill) : undefined,
        points: { show: points, size: 6, fill: () => colour("--surface") },
        paths: curve.steps ? uPlot.paths.stepped({ align: 1 }) : undefined,
        spanGaps: points,
      }))],
      hooks: { setCursor: [(u) => show(u.cursor.idx)] },
    };
    plot = new uPlot(options, data, place);
  };
  const observer = new ResizeObserver(() => {
    if (plot === null) make();
    else if (Math.abs(plot.width - place.clientWidth) > 1) plot.setSize({ width: Math.max(place.clientWidth, 120), height });
  });
  observer.observe(place);
  const repaint = () => plot?.redraw(false);
  addEventListener("colours", repaint);
  return {
    card,
    set(next) {
      data = next;
      plot?.setData(data);
      show(plot?.cursor.idx);
    },
    close() {
      observer.disconnect();
      removeEventListener("colours", repaint);
      plot?.destroy();
    },
  };
}

function bounds(low, high, fits) {
  if (low === null || high === null || low === undefined) return [0, 1];
  if (!fits) return [0, high <= 0 ? 1 : high * 1.1];
  const space = (high - low || Math.abs(high) || 1) * 0.15;
  return [low - space, high + space];
}

/** Bars of counts with their names, as an accessible list. `pick` is called with a name. */
export function bars(items, format, pick) {
  const most = Math.max(1, ...items.map((item) => item.count));
  return el("ul", { class: "bars" }, items.map((item) => {
    // A progress element has a width without an inline style.
    const bar = el("progress", { max: String(most), value: String(item.count), "aria-hidden": "true" });
    const label = item.name === null ? el("em", null, "null") : item.name;
    const name = pick ? el("button", { type: "button", class: "plain", onclick: () => pick(item.name) }, label) : el("span", null, label);
    return el("li", null, el("span", { class: "bar-name", title: item.name ?? "null" }, name), bar, el("b", null, format(item.count)));
  }));
}

// What the server has told: the present status, the latest changes, the curves. All of it is bounded.

const SHOWN = 300;
const EVENTS = 200;
/** Seconds of the curves. */
export const SPAN = 600;
/** The curves of `second`. */
const CURVES = ["written", "offsets", "read", "lag", "p50", "p99", "source", "log_p50", "log_p99"];

export const store = {
  hello: null,
  status: null,
  /** Newest first. */
  changes: [],
  /** Newest first. */
  events: [],
  /** By curve, with `at` in seconds. */
  series: Object.fromEntries(["at", ...CURVES].map((name) => [name, []])),
  /** All changes since the page was opened. */
  total: 0,
  ops: { c: 0, u: 0, d: 0, r: 0 },
  isConnected: false,
  /** Whether the server reads the topics. */
  isReading: false,
};

const listeners = new Map();

/** Calls back on `hello`, `status`, `flow`, `second`, `event` and `link`. Returns the function that ends it. */
export function on(name, call) {
  if (!listeners.has(name)) listeners.set(name, new Set());
  listeners.get(name).add(call);
  return () => listeners.get(name).delete(call);
}

function tell(name, value) {
  for (const call of listeners.get(name) ?? []) call(value);
}

function keep(list, items, most) {
  list.unshift(...items);
  if (list.length > most) list.length = most;
}

function second(values) {
  const { series } = store;
  series.at.push(values.at);
  for (const name of CURVES) series[name].push(values[name] ?? null);
  const over = series.at.length - SPAN;
  if (over > 0) for (const curve of Object.values(series)) curve.splice(0, over);
}

const receive = {
  hello(hello) {
    // Another server's past is not this one's: begin again.
    store.hello = hello;
    store.isReading = false;
    for (const curve of Object.values(store.series)) curve.length = 0;
    store.changes.length = 0;
    store.events.length = 0;
    hello.seconds.forEach(second);
    keep(store.events, hello.events.toReversed(), EVENTS);
    keep(store.changes, hello.changes.toReversed(), SHOWN);
  },
  status(status) {
    store.status = status;
  },
  flow(flow) {
    store.total += flow.count;
    for (const [letter, number] of Object.entries(flow.ops)) store.ops[letter] = (store.ops[letter] ?? 0) + number;
    keep(store.changes, flow.shown.toReversed(), SHOWN);
  },
  second(values) {
    store.isReading = true;
    second(values);
  },
  event(event) {
    keep(store.events, [event], EVENTS);
  },
};

/** Listens until the page is closed. The browser connects again by itself, unless the server refused it. */
export function connect() {
  let source = null;
  const link = (isConnected) => {
    store.isConnected = isConnected;
    tell("link", isConnected);
  };
  const open = () => {
    source = new EventSource("/api/stream");
    for (const [name, take] of Object.entries(receive)) {
      source.addEventListener(name, (message) => {
        const value = JSON.parse(message.data);
        take(value);
        if (name === "hello") link(true);
        tell(name, value);
      });
    }
    source.onerror = () => {
      link(false);
      if (source.readyState === EventSource.CLOSED) setTimeout(open, 2000);
    };
  };
  open();
  // A page in the background asks for nothing, so that the server may rest.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      hiddenFor = setTimeout(() => { source.close(); link(false); }, 60_000);
    } else {
      clearTimeout(hiddenFor);
      if (source.readyState === EventSource.CLOSED) open();
    }
  });
}

let hiddenFor;

/** Asks the server. Throws an error with its reason and remedy. */
export async function ask(path, parameters, options) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters ?? {})) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const url = query.size > 0 ? `${path}?${query}` : path;
  let answer;
  try {
    answer = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("The console does not answer."), { remedy: "Look whether `stream console` still runs." });
  }
  let body = null;
  try { body = await answer.json(); } catch { /* The status says enough. */ }
  if (!answer.ok) {
    throw Object.assign(new Error(body?.reason ?? `The console answers ${answer.status}.`), { remedy: body?.what_to_do, code: body?.error });
  }
  return body;
}

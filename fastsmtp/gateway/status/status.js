// The live page: asks stats.json once a second and shows it. Strings of clients are shown as text only.
"use strict";

const HISTORY = 120; // seconds of a line
const WINDOW = 60; // seconds of rates by reason, and of times
const POLL = 1000; // milliseconds
const SLOWEST = 5000; // milliseconds between two tries while the server is gone
const PATIENCE = 5000; // milliseconds for one answer
const LONGEST = 120; // characters of a text of a client
const MOST_REASONS = 12;
const SVG = "http://www.w3.org/2000/svg";

const samples = []; // the last answers, oldest first
let failures = 0; // in a row
let lastAnswer = null; // when, as Date
let timer = 0;
let asking = false;

// Values.

function at(value, path) {
  for (const key of path.split(".")) {
    value = value === null || typeof value !== "object" ? undefined : value[key];
  }
  return value;
}

function number(value, path) {
  const found = Number(at(value, path));
  return Number.isFinite(found) ? found : 0;
}

// How much a counter has grown per second between two samples.
function rate(before, after, read) {
  const seconds = after.time - before.time;
  return seconds > 0 ? Math.max(0, read(after.stats) - read(before.stats)) / seconds : 0;
}

// Texts.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

function count(value) {
  return value >= 10000000 ? `${short.format(value / 1e6)} M` : whole.format(value);
}

function perSecond(value) {
  return `${value < 10 ? short.format(value) : whole.format(value)} / s`;
}

function octets(value) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 1000) return `${unit === "B" ? whole.format(value) : short.format(value)} ${unit}`;
    value /= 1000;
  }
  return `${short.format(value)} TB`;
}

function milliseconds(seconds) {
  const value = seconds * 1000;
  if (value >= 100) return whole.format(value);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function duration(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}

function clock(seconds) {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleTimeString("en-GB");
}

// A text that a client has chosen: cut, and everything visible that could be invisible, turn the direction of the line
// or break it. Of many marks on one letter, which would paint over other lines, only the first are left.
function clean(text) {
  const characters = Array.from(String(text ?? "").slice(0, 4 * LONGEST));
  const cut = characters.length > LONGEST ? [...characters.slice(0, LONGEST), "…"] : characters;
  return cut
    .map((one) => (/[\p{C}\p{Zl}\p{Zp}]/u.test(one) ? `\\u{${one.codePointAt(0).toString(16)}}` : one))
    .join("")
    .replace(/(\p{M}{2})\p{M}+/gu, "$1");
}

// Elements.

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Text that changes only where it differs, so that a selection, or what a screen reader reads, stays.
function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// rows: lists of cells, each a text or {text, ...} with number: right-aligned, client: a text of a client, state: a colour.
function fill(section, rows) {
  section.hidden = rows.length === 0;
  const key = JSON.stringify(rows);
  if (section.shown === key) return;
  section.shown = key;
  const columns = Array.from(section.querySelectorAll("th"), (each) => each.textContent);
  section.querySelector("tbody").replaceChildren(
    ...rows.map((cells) => {
      const row = document.createElement("tr");
      row.append(...cells.map((cell, index) => tableCell(cell, columns[index])));
      return row;
    }),
  );
}

function tableCell(cell, column) {
  const facts = typeof cell === "object" ? cell : { text: cell };
  const made = element("td", "", { "data-column": column });
  const inner = facts.client ? element("bdi", clean(facts.text)) : element("span", facts.text);
  if (facts.number) made.className = "number";
  if (facts.state) inner.dataset.state = facts.state;
  made.append(inner);
  return made;
}

// Tiles.

const TILES = [
  { label: "Open connections", gauge: (stats) => number(stats, "connections.now"), show: count },
  { label: "New connections", counter: (stats) => number(stats, "connections.total"), show: perSecond },
  { label: "Messages accepted", counter: (stats) => number(stats, "messages.accepted"), show: perSecond },
  { label: "Messages refused", counter: (stats) => number(stats, "messages.refused"), show: perSecond },
  { label: "Recipients refused", counter: (stats) => number(stats, "recipients.refused"), show: perSecond },
  { label: "Received", counter: (stats) => number(stats, "octets.in"), show: (value) => `${octets(value)} / s` },
];

function makeTile(tile) {
  const box = element("div", "", { class: "tile" });
  tile.value = element("p", "–");
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", `0 0 ${HISTORY - 1} 40`);
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("aria-hidden", "true");
  tile.area = document.createElementNS(SVG, "polygon");
  tile.line = document.createElementNS(SVG, "polyline");
  drawing.append(tile.area, tile.line);
  box.append(element("h3", tile.label), tile.value, drawing);
  return box;
}

function showTile(tile) {
  const values = samples.map((sample, index) => {
    if (tile.gauge) return tile.gauge(sample.stats);
    return index === 0 ? null : rate(samples[index - 1], sample, tile.counter);
  }).filter((value) => value !== null);
  if (values.length === 0) return;
  say(tile.value, tile.show(values.at(-1)));
  const top = Math.max(...values, 1e-9);
  const start = HISTORY - values.length;
  const points = values.map((value, index) => `${start + index},${(38 - 34 * (value / top)).toFixed(1)}`);
  tile.line.setAttribute("points", points.join(" "));
  tile.area.setAttribute("points", `${start},40 ${points.join(" ")} ${HISTORY - 1},40`);
}

// Reasons.

const CONNECTION_LIMIT = "client refused at once: ";

function reasons(stats) {
  const found = new Map();
  for (const [stage, codes] of Object.entries(stats.replies ?? {})) {
    for (const [code, times] of Object.entries(codes)) {
      if (/^(other )?[45]/.test(code)) found.set(`${stage}: ${code}`, Number(times));
    }
  }
  for (const [limit, times] of Object.entries(at(stats, "connections.refused") ?? {})) {
    found.set(CONNECTION_LIMIT + limit, Number(times));
  }
  for (const [limit, times] of Object.entries(stats.limits ?? {})) found.set(`limit: ${limit}`, Number(times));
  found.set("messages cut off", number(stats, "messages.aborted"));
  return found;
}

function showReasons(before, now) {
  const earlier = reasons(before.stats);
  const rows = [...reasons(now.stats)]
    .filter(([, total]) => total > 0)
    .map(([reason, total]) => ({ reason, total, lately: Math.max(0, total - (earlier.get(reason) ?? 0)) }))
    .sort((one, other) => other.lately - one.lately || other.total - one.total)
    .slice(0, MOST_REASONS)
    .map(({ reason, total, lately }) => [
      reason, { text: count(lately), number: true }, { text: count(total), number: true },
    ]);
  fill(document.getElementById("refused"), rows);
}

// Times.

const TIMES = [
  ["on_connect", "hooks.seconds.on_connect"],
  ["on_secure", "hooks.seconds.on_secure"],
  ["on_auth", "hooks.seconds.on_auth"],
  ["on_scram", "hooks.seconds.on_scram"],
  ["on_mail_from", "hooks.seconds.on_mail_from"],
  ["on_rcpt_to", "hooks.seconds.on_rcpt_to"],
  ["on_data", "hooks.seconds.on_data"],
  ["delivery", "delivery.seconds"],
  ["event loop late by", "loop.lag"],
];

// The buckets of a histogram that were filled between two samples; those since the start, if none were.
function growth(before, after) {
  const buckets = Object.entries(after?.buckets ?? {}).map(([bound, total]) => [
    bound === "+Inf" ? Infinity : Number(bound), Number(total), Number(at(before, "buckets")?.[bound] ?? 0),
  ]).sort((one, other) => one[0] - other[0]);
  const grown = buckets.map(([bound, total, earlier]) => [bound, Math.max(0, total - earlier)]);
  return grown.length && grown.at(-1)[1] > 0 ? grown : buckets.map(([bound, total]) => [bound, total]);
}

function quantile(buckets, part) {
  const wanted = buckets.at(-1)[1] * part;
  let [low, below] = [0, 0];
  for (const [bound, total] of buckets) {
    if (total >= wanted && total > below) {
      if (bound === Infinity) return `> ${milliseconds(low)}`;
      return milliseconds(low + (bound - low) * ((wanted - below) / (total - below)));
    }
    [low, below] = [bound, total];
  }
  return "–";
}

function showTimes(before, now) {
  const rows = [];
  for (const [name, path] of TIMES) {
    const buckets = growth(at(before.stats, path), at(now.stats, path));
    if (buckets.length === 0 || buckets.at(-1)[1] === 0) continue;
    const parts = [0.5, 0.9, 0.99].map((part) => ({ text: quantile(buckets, part), number: true }));
    rows.push([name, ...parts, { text: count(buckets.at(-1)[1]), number: true }]);
  }
  fill(document.getElementById("times"), rows);
}

// Delivery.

const PROMISES = {
  memory: "in memory", quorum: "in memory of several hosts", disk: "on this disk",
  quorum_disk: "on the disks of several hosts", next_hop: "at the next server", remote: "in a remote store",
};

function deliveryRows(answer) {
  const stats = answer.all;
  const rows = [];
  if (stats.delivery) {
    const up = number(stats, "delivery.up") > 0;
    rows.push(["sink", up ? "up" : "down", up ? "ready" : "bad"]);
    for (const [name, set] of Object.entries(stats.delivery.promise ?? {})) {
      if (Number(set) > 0) rows.push(["250 means", PROMISES[name] ?? name]);
    }
    rows.push(["in flight", `${count(number(stats, "delivery.in_flight.messages"))} messages, `
      + octets(number(stats, "delivery.in_flight.octets"))]);
    for (const [outcome, times] of Object.entries(stats.delivery.outcomes ?? {})) {
      if (Number(times) > 0) rows.push([outcome.replaceAll("_", " "), count(Number(times))]);
    }
  }
  if (stats.spool) {
    const quota = number(stats, "spool.quota");
    const used = octets(number(stats, "spool.octets"));
    rows.push(["spool", `${count(number(stats, "spool.messages"))} messages`]);
    rows.push(["spool on disk", quota ? `${used} of ${octets(quota)}` : used]);
    rows.push(["oldest in the spool", duration(number(stats, "spool.oldest"))]);
  }
  return rows;
}

function showDelivery(answer) {
  const section = document.getElementById("delivery");
  const rows = deliveryRows(answer);
  section.hidden = rows.length === 0;
  const key = JSON.stringify(rows);
  if (section.shown === key) return;
  section.shown = key;
  section.querySelector("dl").replaceChildren(
    ...rows.flatMap(([name, text, state]) => [element("dt", name), element("dd", text, state ? { "data-state": state } : {})]),
  );
}

// Workers and refusals.

function showWorkers(answer) {
  const workers = answer.workers ?? [];
  const rows = workers.length < 2 && !answer.all.workers ? [] : workers.map((stats, index) => {
    const started = number(stats, "process.started");
    const texts = [
      count(number(stats, "connections.now")),
      count(number(stats, "messages.accepted")),
      count(number(stats, "messages.refused")),
      started ? duration(answer.time - started) : "–",
    ];
    return [String(index + 1), ...texts.map((text) => ({ text, number: true }))];
  });
  fill(document.getElementById("workers"), rows);
}

function showRefusals(answer) {
  const rows = (answer.refusals ?? []).map((refusal) => [
    clock(refusal.time),
    { text: refusal.reply, client: true },
    { text: refusal.stage, client: true },
    { text: refusal.client, client: true },
    { text: refusal.from, client: true },
    { text: refusal.to, client: true },
  ]);
  fill(document.getElementById("refusals"), rows);
}

// The state of the server, and of its answers.

function showState(answer) {
  const state = document.getElementById("state");
  state.dataset.state = answer.ready === false ? "busy" : "ready";
  say(state, answer.ready === false ? `not ready${answer.reason ? `: ${clean(answer.reason)}` : ""}` : "ready");
  const started = number(answer.all, "process.started");
  const facts = [
    at(answer.all, "build.version") ?? "",
    started ? `up for ${duration(answer.time - started)}` : "",
    number(answer.all, "workers.restarts") ? `restarts of workers: ${count(number(answer.all, "workers.restarts"))}` : "",
  ];
  say(document.getElementById("facts"), facts.filter(Boolean).join(" · "));
  document.getElementById("gone").hidden = true;
}

function showGone(reason) {
  const state = document.getElementById("state");
  state.dataset.state = "bad";
  say(state, "no answer");
  const since = lastAnswer === null ? "" : ` The figures below are of ${lastAnswer.toLocaleTimeString("en-GB")}.`;
  const gone = document.getElementById("gone");
  say(gone, `The server does not answer (${reason}). This page keeps trying.${since}`);
  gone.hidden = false;
}

// Counters only grow, so an answer with a smaller one is of another server.
function isRestarted(before, after) {
  return ["connections.total", "messages.accepted", "octets.in"].some(
    (path) => number(after.stats, path) < number(before.stats, path),
  ) || after.time < before.time;
}

function show(answer) {
  const now = { time: answer.time, stats: answer.all };
  if (samples.length && isRestarted(samples.at(-1), now)) samples.length = 0;
  samples.push(now);
  while (samples.length > HISTORY) samples.shift();
  const before = samples.find((sample) => answer.time - sample.time <= WINDOW + 0.5);
  showState(answer);
  TILES.forEach(showTile);
  showReasons(before, now);
  showTimes(before, now);
  showDelivery(answer);
  showWorkers(answer);
  showRefusals(answer);
}

async function ask() {
  const response = await fetch("stats.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!response.ok) throw new Error(`status ${response.status}`);
  const answer = await response.json();
  if (typeof (answer?.all ?? 0) !== "object" || !Number.isFinite(answer.time)) throw new Error("no figures in its answer");
  return answer;
}

const REASONS = { TypeError: "no connection", TimeoutError: "no answer in time", SyntaxError: "no figures in its answer" };

async function poll() {
  clearTimeout(timer);
  if (asking) return;
  asking = true;
  let answer = null;
  try {
    answer = await ask();
    failures = 0;
    lastAnswer = new Date();
  } catch (error) {
    failures += 1;
    // Once is not gone: the server closes old connections.
    if (failures > 1) showGone(REASONS[error.name] ?? error.message);
  }
  asking = false;
  if (!document.hidden) timer = setTimeout(poll, Math.min(SLOWEST, POLL * Math.max(1, failures - 1)));
  if (answer !== null) show(answer);
}

document.getElementById("tiles").append(...TILES.map(makeTile));
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : poll()));
poll();

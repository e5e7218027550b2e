// The live page: takes snapshots from the stream and draws them.

import { bar, chart } from "./charts.js";
import { keep, make, put, row, show, style, words } from "./draw.js";

const STALE_SECONDS = 8;
const RETRY_MILLISECONDS = 2000;

const byId = (id) => document.getElementById(id);
const at = { snapshot: null, heard: null, stream: null, retry: 0 };

// --- the stream -------------------------------------------------------------------------------

function connect() {
  clearTimeout(at.retry);
  at.stream?.close();
  const stream = (at.stream = new EventSource("events"));
  stream.addEventListener("snapshot", (event) => {
    at.snapshot = JSON.parse(event.data);
    at.heard = performance.now();
    draw(at.snapshot);
    tellLink();
  });
  stream.addEventListener("problem", (event) => {
    at.heard = performance.now();
    put(byId("headline"), `This page cannot tell: ${JSON.parse(event.data) || "nothing is known yet"}`);
    style(byId("banner"), "banner bad");
  });
  stream.addEventListener("error", () => {
    tellLink();
    // The browser tries again by itself, unless the server answered with an error.
    if (stream.readyState === EventSource.CLOSED) at.retry = setTimeout(connect, RETRY_MILLISECONDS);
  });
}

function disconnect() {
  clearTimeout(at.retry);
  at.stream?.close();
}

function tellLink() {
  const silent = at.heard === null ? null : (performance.now() - at.heard) / 1000;
  const live = silent !== null && silent < STALE_SECONDS;
  document.documentElement.classList.toggle("stale", silent !== null && !live);
  style(byId("link"), live ? "link live" : "link lost");
  if (live) put(byId("link"), "live");
  else if (silent === null) put(byId("link"), "not connected");
  else put(byId("link"), `no answer for ${words.seconds(Math.floor(silent / 5) * 5)}: this is old`);
}

document.addEventListener("visibilitychange", () => {
  // It is not seen, so the server need not look.
  if (document.hidden) disconnect();
  else connect();
});
window.addEventListener("pagehide", disconnect);
window.addEventListener("pageshow", (event) => event.persisted && connect());
setInterval(tellLink, 1000);

// --- the page ---------------------------------------------------------------------------------

const SIGNS = { quiet: "✔", busy: "●", warning: "▲", bad: "✖" };
const LEVELS = { quiet: "All is well:", busy: "Busy:", warning: "Warning:", bad: "Trouble:" };

function draw(now) {
  const here = now.host;
  put(byId("host"), here);
  put(byId("path"), now.cache.path);
  put(byId("version"), `ajit ${now.version}, pid ${now.pid}.`);
  drawBanner(now.headline);
  drawTiles(now);
  drawWork(now, here);
  drawCharts(now.rates);
  drawProcesses(now, here);
  drawDevices(now.processes, here);
  drawKv(now.kv);
  drawProblems(now, here);
  drawLog(now, here);
  drawCache(now);
}

function drawBanner(headline) {
  style(byId("banner"), `banner ${headline.level}`);
  put(byId("sign"), SIGNS[headline.level]);
  put(byId("level"), LEVELS[headline.level]);
  put(byId("headline"), headline.text);
  document.title = `${SIGNS[headline.level]} ajit: ${headline.problems[0]?.text ?? headline.text}`;
  keep(byId("statements"), headline.problems.map((one, index) => ({ ...one, index })), (one) => one.index, () => {
    const node = make("li");
    return { node, update: (one) => { put(node, one.text); style(node, one.level); } };
  });
}

function sum(rows, field) {
  return rows.reduce((total, one) => total + one[field], 0);
}

function drawTiles(now) {
  const alive = now.processes.filter((one) => one.state !== "dead");
  const ill = now.processes.filter((one) => one.level === "bad" || one.level === "warning").length;
  const kernels = now.work.filter((one) => one.kind === "kernel");
  const waiting = kernels.reduce((total, one) => total + Math.max(one.waiters.length + one.more_waiters, one.blocked), 0);
  const found = sum(alive, "memory") + sum(alive, "disk");
  const asked = found + sum(alive, "compiled") + sum(alive, "failed");
  const listed = now.problems.filter((one) => one.kind.startsWith("Compile")).length;
  const failed = Math.max(sum(alive, "failed"), listed); // of processes that have ended as well
  const compiling = kernels.filter((one) => one.phase !== "queued").length;
  const queued = sum(alive, "queued");
  const tiles = [
    ["compile", words.number(compiling), compiling ? "busy" : ""],
    ["wait", words.number(waiting), waiting ? (kernels.some((one) => one.level === "bad") ? "bad" : "warning") : ""],
    ["queued", words.number(queued), queued ? "warning" : ""],
    ["failed", words.number(failed), failed ? "bad" : ""],
    [ill ? `runtimes, ${ill} not well` : "runtimes", words.number(alive.length + now.more_processes), ill ? "bad" : ""],
    ["found ready", asked ? `${((100 * found) / asked).toFixed(found === asked ? 0 : 1)} %` : "–", ""],
    ["cache", now.cache.looked_seconds === null ? "–" : words.bytes(now.cache.size_bytes), now.cache.problem ? "bad" : ""],
  ];
  keep(byId("tiles"), tiles, ([name]) => name.split(",")[0], () => {
    const node = make("div");
    const [dt, dd] = [make("dt"), make("dd")];
    node.append(dt, dd);
    return { node, update: ([name, value, level]) => { put(dt, name); put(dd, value); style(node, level); } };
  });
}

function drawWork(now, here) {
  const kernels = now.work.filter((one) => one.kind === "kernel");
  show(byId("work-empty"), kernels.length === 0);
  more("work-more", now.more_work, "more lease", "more leases");
  const whose = (one) => `${one.key} ${one.host} ${one.pid}`;
  keep(byId("work"), kernels, whose, () => holder(here));
  keep(byId("others"), now.work.filter((one) => one.kind !== "kernel"), whose, () => {
    const node = make("li");
    return { node, update: (one) => put(node, otherLease(one, here)) };
  });
}

function otherLease(one, here) {
  const what = one.kind === "permit" ? "has a permit to compile" : "evicts entries";
  const where = one.kind === "permit" ? ` ${one.name}` : "";
  return `${words.process(one.pid, one.host, here)} ${what}${where}, for ${words.span(one.seconds)}`;
}

function holder(here) {
  const node = make("article");
  const title = make("h3");
  const name = make("span");
  const tag = make("span");
  title.append(name, tag);
  const facts = make("p", "facts");
  const list = make("ul");
  node.append(title, facts, list);
  function update(one) {
    style(node, `holder ${one.level}`);
    const who = words.process(one.pid, one.host, here);
    put(name, `${who} ${doing(one)} ${one.name || short(one.key)} · ${words.seconds(one.seconds)}`);
    const state = trouble(one);
    put(tag, state);
    style(tag, `tag ${one.level}`);
    show(tag, state !== "");
    put(facts, factsOf(one));
    const waiters = one.waiters.map((waiter, index) => ({ waiter, index }));
    const known = one.waiters.length + one.more_waiters;
    const others = Math.max(one.more_waiters, one.blocked - one.waiters.length);
    if (others > 0) waiters.push({ others, known, index: "others" });
    keep(list, waiters, (item) => item.waiter ? `${item.waiter.host} ${item.waiter.pid}` : "others", () => {
      const line = make("li");
      return { node: line, update: (item) => put(line, waits(item, here)) };
    });
  }
  return { node, update };
}

function waits({ waiter, others }, here) {
  if (!waiter) return `${words.counted(others, "more waits", "more wait")} in its lock`;
  const program = waiter.program ? ` (${waiter.program})` : "";
  return `${words.process(waiter.pid, waiter.host, here)}${program} waits, for ${words.seconds(waiter.waited_seconds)}`;
}

function doing(one) {
  return { queued: "has queued", compiling: "compiles", publishing: "publishes" }[one.phase] ?? `is at (${one.phase})`;
}

function trouble(one) {
  if (!one.authentic) return "record not authentic";
  if (one.state === "stopped") return "stopped";
  if (one.state === "dead") return "has died";
  if (one.level === "bad") return `silent for ${words.seconds(one.silent_seconds)}`;
  return one.state === "late" ? "its loop is late" : "";
}

function factsOf(one) {
  return [
    one.program,
    one.compiler && `${one.compiler}${one.arch ? ` for ${one.arch}` : ""}`,
    one.cpu_seconds ? `${words.seconds(one.cpu_seconds)} CPU` : "",
    one.silent_seconds === null ? "" : `last beat ${words.seconds(one.silent_seconds)} ago`,
    one.reason,
    one.key && `key ${short(one.key)}`,
  ].filter(Boolean).join(" · ");
}

function short(key) {
  return key.slice(0, 12);
}

const CHARTS = [
  ["memory", "from memory", "/s"],
  ["disk", "from disk", "/s"],
  ["compiled", "compiled", "/s"],
  ["failed", "failed", "/s"],
  ["compiling", "compile", ""],
  ["waiting", "wait", ""],
].map(([kind, title, unit]) => ({ kind, ...chart(kind, title, unit) }));
byId("charts").append(...CHARTS.map((one) => one.figure));

/**
 * What this page has seen of an interval is kept: another worker of the server, to which it is
 * connected next, knows only what it has seen itself.
 */
const seen = new Map();

function joined(kind, rates) {
  const known = seen.get(kind) ?? new Map();
  seen.set(kind, known);
  const first = rates.last - rates[kind].length + 1;
  for (const number of known.keys()) if (number < first) known.delete(number);
  return rates[kind].map((value, index) => {
    if (value !== null) known.set(first + index, value);
    return known.get(first + index) ?? null;
  });
}

function drawCharts(rates) {
  const minutes = Math.round((rates.interval_seconds * rates.memory.length) / 60);
  for (const one of CHARTS) one.draw(joined(one.kind, rates), minutes);
}

function name(one, here) {
  const number = one.number > 1 ? `, runtime ${one.number}` : "";
  return `${words.process(one.pid, one.host, here)}${one.program ? ` ${one.program}` : ""}${number}`;
}

function stateOf(one) {
  const parts = [one.state];
  if (one.state !== "running") parts.push(`silent for ${words.seconds(one.silent_seconds)}`);
  else if (one.lag_seconds > 0.25) parts.push(`loop ${words.seconds(one.lag_seconds)} late`);
  if (one.problem) parts.push(one.problem);
  if (one.queued && one.held_back) parts.push(`next compile waits for ${one.held_back}`);
  return parts.join(", ");
}

function drawProcesses(now, here) {
  show(byId("processes"), now.processes.length > 0);
  show(byId("processes-empty"), now.processes.length === 0);
  more("processes-more", now.more_processes, "more runtime", "more runtimes");
  const columns = [
    ["process", (one) => name(one, here)],
    ["state", stateOf, "wide"],
    ["compiles", (one) => (one.slots ? `${words.number(one.compiling)} of ${one.slots}` : words.number(one.compiling)), "n"],
    ["queued", (one) => words.number(one.queued), "n"],
    ["waits", (one) => words.number(one.waiting), "n"],
    ["memory", (one) => words.number(one.memory), "n"],
    ["disk", (one) => words.number(one.disk), "n"],
    ["compiled", (one) => words.number(one.compiled), "n"],
    ["failed", (one) => words.number(one.failed), "n"],
    ["saved", (one) => words.span(one.saved_seconds), "n"],
    ["open for", (one) => words.span(one.open_seconds), "n"],
  ];
  const body = byId("processes").tBodies[0];
  keep(body, now.processes, (one) => `${one.host} ${one.pid} ${one.number}`, () => row(columns, (one) => one.level));
}

function drawDevices(processes, here) {
  const rows = processes.filter((one) => one.device !== null);
  show(byId("devices-section"), rows.length > 0);
  const columns = [
    ["process", (one) => name(one, here)],
    ["device", ({ device }) => device.name, "wide"],
    ["is at", ({ device }) => isAt(device), "wide"],
    ["oldest ticket", ({ device }) => (device.in_flight ? words.seconds(device.oldest_ticket_seconds) : "none"), "n"],
    ["in flight", ({ device }) => words.number(device.in_flight), "n"],
    ["not taken", ({ device }) => words.number(device.waiting), "n"],
    ["launches", ({ device }) => words.number(device.launches), "n"],
    ["memory", ({ device }) => words.bytes(device.used_bytes), "n"],
  ];
  const body = byId("devices").tBodies[0];
  keep(body, rows, (one) => `${one.host} ${one.pid} ${one.number}`, () => row(columns, (one) => one.device.level));
}

function isAt(device) {
  if (device.lost_code) return `lost: driver code ${device.lost_code}`;
  if (device.operation) return `${device.operation} for ${words.seconds(device.since_seconds)}`;
  return "waits for work";
}

function drawKv(stores) {
  show(byId("kv-section"), stores.length > 0);
  const columns = [
    ["store", (one) => one.name],
    ["state", (one) => one.text, "wide"],
    ["memory", (one) => words.bytes(one.used_bytes), "n"],
    ["limit", (one) => words.bytes(one.limit_bytes), "n"],
    ["chunks", (one) => words.number(one.chunks), "n"],
    ["clients", (one) => words.number(one.clients), "n"],
    ["found", (one) => words.number(one.found), "n"],
    ["missed", (one) => words.number(one.missed), "n"],
  ];
  keep(byId("kv").tBodies[0], stores, (one) => one.name, () => row(columns, (one) => one.level));
}

function inWords(kind) {
  return kind.replace(/([a-z])([A-Z])/g, (_, left, right) => `${left} ${right.toLowerCase()}`);
}

function ago(then, now) {
  return Number.isFinite(then) ? `${words.span(now - then)} ago` : "";
}

function drawProblems(now, here) {
  show(byId("problems-empty"), now.problems.length === 0);
  keep(byId("problems"), now.problems, (one) => `${one.unix_seconds} ${one.kind} ${one.key}`, () => {
    const node = make("details");
    const summary = make("summary");
    const [kind, what, when] = [make("b"), make("span"), make("span", "faint")];
    summary.append(kind, what, when);
    const log = make("pre");
    log.tabIndex = 0;
    node.append(summary, log);
    function update(one) {
      put(kind, inWords(one.kind));
      put(what, `${one.name ? ` ${one.name}` : ""}: ${one.text} `);
      const who = one.pid ? `, ${words.process(one.pid, one.host, here)}` : one.host && one.host !== here ? `, on ${one.host}` : "";
      put(when, `${ago(one.unix_seconds, at.snapshot.unix_seconds)}${who}`);
      put(log, one.log);
      show(log, one.log !== "");
      node.classList.toggle("plain", one.log === "");
    }
    return { node, update };
  });
}

function drawLog(now, here) {
  show(byId("log-section"), now.log.length > 0);
  const columns = [
    ["when", (one) => ago(one.unix_seconds, at.snapshot.unix_seconds), "s"],
    ["kernel", (one) => one.name || short(one.key), "wide"],
    ["outcome", (one) => one.outcome, "s"],
    ["took", (one) => words.seconds(one.seconds), "n"],
    ["compiler", (one) => `${one.compiler}${one.arch ? ` for ${one.arch}` : ""}`, "wide"],
    ["why", (one) => one.why, "wide"],
    ["process", (one) => words.process(one.pid, one.host, here).replace("pid ", "pid\u00a0"), "wide"],
  ];
  const level = (one) => (!["compiled", "cancelled", "unknown"].includes(one.outcome) ? "bad" : "");
  keep(byId("log").tBodies[0], now.log, (one) => `${one.unix_seconds} ${one.key} ${one.pid}`, () => row(columns, level));
}

function drawCache(now) {
  const { cache } = now;
  const line = byId("cache-line");
  style(line, cache.problem ? "line bad" : "line");
  put(line, cacheLine(cache));
  show(byId("cache-meter"), cache.limit_bytes > 0);
  if (cache.limit_bytes > 0) byId("cache-meter").value = Math.min(1, cache.size_bytes / cache.limit_bytes);
  drawGroups("by-use", cache.by_use);
  drawGroups("by-size", cache.by_size);
  drawEntries(now);
}

function cacheLine(cache) {
  const parts = [];
  if (cache.problem) parts.push(`${cache.problem}.`);
  if (cache.looked_seconds === null) return parts.join(" ") || "It is being looked at.";
  const limit = cache.limit_bytes > 0 ? ` of ${words.bytes(cache.limit_bytes)}` : ", no limit";
  const least = cache.partial ? "at least " : "";
  parts.push(`${least}${words.counted(cache.entries, "entry", "entries")}, ${words.bytes(cache.size_bytes)}${limit}; looked at ${words.seconds(cache.looked_seconds)} ago.`);
  return parts.join(" ");
}

function drawGroups(id, groups) {
  const most = Math.max(1, ...groups.map((group) => group.size_bytes));
  keep(byId(id).tBodies[0], groups, (group) => group.label, () => {
    const node = make("tr");
    const label = make("th");
    label.scope = "row";
    const [cell, entries, size] = [make("td", "bar"), make("td", "n"), make("td", "n")];
    const { svg, set } = bar();
    cell.append(svg);
    node.append(label, cell, entries, size);
    function update(group) {
      put(label, group.label);
      set(group.size_bytes / most);
      put(entries, words.number(group.entries));
      put(size, words.bytes(group.size_bytes));
    }
    return { node, update };
  });
}

function drawEntries(now) {
  const entries = now.cache[byId("which").value];
  show(byId("entries"), entries.length > 0);
  const columns = [
    ["kernel", (one) => one.name || one.problem || "(not read yet)"],
    ["key", (one) => short(one.key), "key s"],
    ["for", (one) => [one.arch, one.compiler].filter(Boolean).join(", "), "wide"],
    ["size", (one) => words.bytes(one.size_bytes), "n"],
    ["last used", (one) => `${words.span(one.unused_seconds)} ago`, "n"],
    ["compiled", (one) => (one.created ? ago(one.created, at.snapshot.unix_seconds) : ""), "n"],
    ["compile took", (one) => (one.compile_seconds ? words.seconds(one.compile_seconds) : ""), "n"],
  ];
  keep(byId("entries").tBodies[0], entries, (one) => one.key, () => row(columns, (one) => (one.problem ? "bad" : "")));
}

function more(id, number, one, many) {
  show(byId(id), number > 0);
  put(byId(id), `and ${words.counted(number, one, many)}`);
}

byId("which").addEventListener("change", () => at.snapshot && drawEntries(at.snapshot));
connect();

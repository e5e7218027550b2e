// Brings values into the document: always as text, and only where something has changed, so that
// what a reader has selected, focused or opened stays as it is.

/** Set an element's text. */
export function put(element, text) {
  const shown = text === null || text === undefined ? "" : String(text);
  if (element.textContent !== shown) element.textContent = shown;
}

/** Make an element with a class and a text. */
export function make(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== "") made.textContent = text;
  return made;
}

function style(element, className) {
  if (element.className !== className) element.className = className;
}

/**
 * Keep one child for each item, in order.
 * @param key of an item: who has the same key keeps the same child.
 * @param create makes a child: {node, update(item)}.
 */
export function keep(parent, items, key, create) {
  const known = parent.kept ?? (parent.kept = new Map());
  const wanted = new Map();
  items.forEach((item, index) => {
    let name = key(item);
    while (wanted.has(name)) name = `${name}+`; // two that cannot be told apart
    const child = known.get(name) ?? create(item);
    child.update(item);
    wanted.set(name, child);
    const there = parent.children[index];
    if (there !== child.node) parent.insertBefore(child.node, there ?? null);
  });
  while (parent.children.length > items.length) parent.lastChild.remove();
  parent.kept = wanted;
}

/**
 * A row of a table.
 * @param columns [label, value(item), class], the first of which heads the row.
 */
export function row(columns, level = () => "") {
  const node = make("tr");
  node.setAttribute("role", "row");
  const cells = columns.map(([label, , className = ""], index) => {
    const cell = make(index ? "td" : "th", className);
    if (!index) cell.scope = "row";
    cell.setAttribute("role", index ? "cell" : "rowheader");
    cell.dataset.label = label;
    const inside = make("span");
    cell.append(inside);
    node.append(cell);
    return { cell, inside, className };
  });
  function update(item) {
    style(node, level(item));
    columns.forEach(([, value], index) => {
      const { cell, inside, className } = cells[index];
      const text = value(item);
      put(inside, text);
      style(cell, text === "" || text === null ? `${className} nothing`.trim() : className);
    });
  }
  return { node, update };
}

/** Set the class of an element. */
export { style };

/** Show an element, or hide it. */
export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

const MOST_SECONDS = 1e10; // whatever says more is wrong anyhow
const MOST_NUMBER = 1e15;

function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "";
  if (value > MOST_SECONDS) return "ages";
  if (value < 10) return `${Math.max(0, value).toFixed(1)}\u00a0s`;
  const whole = Math.floor(value);
  if (whole < 120) return `${whole}\u00a0s`;
  if (whole < 7200) return `${Math.floor(whole / 60)}\u00a0min ${whole % 60}\u00a0s`;
  if (whole < 172800) return `${Math.floor(whole / 3600)}\u00a0h ${Math.floor((whole % 3600) / 60)}\u00a0min`;
  return `${Math.floor(whole / 86400)}\u00a0d`;
}

/** A duration where space is scarce: in its largest unit. */
function span(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "";
  if (value > MOST_SECONDS) return "ages";
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (value >= 2 * size) return `${Math.floor(value / size)}\u00a0${unit}`;
  }
  return `${Math.max(0, Math.floor(value))}\u00a0s`;
}

function bytes(size) {
  let value = size;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return unit === "B" ? `${value}\u00a0B` : `${value.toFixed(1)}\u00a0${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)}\u00a0TiB`;
}

function number(value) {
  if (value >= MOST_NUMBER) return value.toExponential(1);
  if (value >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value >= 1 ? value.toFixed(1) : value.toFixed(2);
}

function counted(value, one, many) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

function process(pid, host, here) {
  if (!pid) return host && host !== here ? `a process on ${host}` : "another process";
  return host && host !== here ? `pid ${pid} on ${host}` : `pid ${pid}`;
}

/** Values in words, as the command line has them. */
export const words = { seconds, span, bytes, number, counted, process };

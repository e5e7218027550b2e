// Small charts as SVG, drawn by hand: an area over time, and a bar.

import { put, words } from "./draw.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 60;

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** The runs of known values: [[index, value], ...] each; a pause is a gap. */
function runs(values) {
  const found = [];
  let run = [];
  values.forEach((value, index) => {
    if (value === null) {
      if (run.length) found.push(run);
      run = [];
    } else run.push([index, value]);
  });
  if (run.length) found.push(run);
  return found;
}

function path(run, count, most) {
  const x = (index) => ((index / Math.max(1, count - 1)) * WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - 2 - (value / most) * (HEIGHT - 6)).toFixed(1);
  const points = run.map(([index, value]) => `${x(index)} ${y(value)}`);
  if (run.length === 1) points.push(`${Math.min(WIDTH, +x(run[0][0]) + 1.5)} ${y(run[0][1])}`);
  const [first, last] = [points[0], points[points.length - 1]].map((point) => point.split(" ")[0]);
  const edge = `M${points.join("L")}`;
  return { edge, area: `${edge}L${last} ${HEIGHT}L${first} ${HEIGHT}Z` };
}

/** A figure that `draw` fills: what it is, its last value, and its course. */
export function chart(kind, title, unit) {
  const figure = document.createElement("figure");
  figure.className = kind;
  const caption = document.createElement("figcaption");
  const name = document.createElement("span");
  const value = document.createElement("b");
  name.textContent = title;
  caption.append(name, value);
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const scale = document.createElement("div");
  scale.className = "scale";
  const left = document.createElement("span");
  const right = document.createElement("span");
  scale.append(left, right);
  figure.append(caption, svg, scale);

  function draw(values, minutes) {
    const known = values.filter((one) => one !== null);
    const most = Math.max(0, ...known);
    const now = known.length ? known[known.length - 1] : 0;
    put(value, `${words.number(now)}${unit}`);
    put(left, `−${minutes} min`);
    put(right, most ? `most ${words.number(most)}${unit}` : "none");
    svg.setAttribute("aria-label", `${title}: now ${words.number(now)}${unit}, most ${words.number(most)}${unit}`);
    const parts = [];
    for (const run of runs(values)) {
      const { edge, area } = path(run, values.length, most || 1);
      parts.push(element("path", { d: area, class: "area" }), element("path", { d: edge, class: "edge" }));
    }
    svg.replaceChildren(...parts);
  }
  return { figure, draw };
}

/** A horizontal bar for a share between 0 and 1. */
export function bar() {
  const svg = element("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  const rect = element("rect", { width: 0, height: 10, rx: 1 });
  svg.append(rect);
  return { svg, set: (share) => rect.setAttribute("width", share > 0 ? Math.max(0.8, share * 100).toFixed(1) : 0) };
}

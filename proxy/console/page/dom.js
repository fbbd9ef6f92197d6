// Elements from what is given, all of it as text: nothing that came from outside is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [property, what] of Object.entries(value)) node.style.setProperty(property, what);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const el = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) => filled(document.createElementNS(SVG, name), attributes, children);

/** A table with a head; rows are lists of cells, each text or an element. */
export function table(caption, head, rows) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", { class: "hidden" }, caption),
      el("thead", {}, el("tr", {}, head.map((title) => el("th", { scope: "col" }, title)))),
      el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", {}, cell ?? "–")))))));
}

const missing = (value) => value === null || value === undefined || Number.isNaN(value);
const digits = (value) => (value >= 100 ? 0 : value >= 10 ? 1 : 2);

export const number = (value) => (missing(value) ? "–" : Number(value.toFixed(value >= 100 || Number.isInteger(value) ? 0 : digits(value))).toLocaleString("en"));
export const share = (value) => (missing(value) ? "–" : `${Math.round(100 * value)} %`);

export function ms(value) {
  if (missing(value)) return "–";
  return value >= 10000 ? `${(value / 1000).toFixed(1)} s` : `${value.toFixed(digits(value))} ms`;
}

export function bytes(value) {
  if (missing(value)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  while (value >= 1000 && step < units.length - 1) {
    value /= 1000;
    step += 1;
  }
  return `${step ? value.toFixed(digits(value)) : Math.round(value)} ${units[step]}`;
}

export const clock = (at) => new Date(1000 * at).toLocaleTimeString("en-GB");

// A line chart: values over the last minutes, as many lines as there are series.

import { clock, svg } from "/console/dom.js";

const WIDTH = 520;
const HEIGHT = 170;
const LEFT = 58;
const BOTTOM = 20;
const TOP = 8;

/** The smallest of 1, 2, 5 times a power of ten that is not below `value`. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

/** Args: series: [{name, values}], null where there is none; shown: a value in words. */
export function chart(title, points, series, shown, ends) {
  const most = round(Math.max(1e-9, ...series.flatMap((each) => each.values.map((value) => value ?? 0))) || 1);
  const x = (place) => LEFT + ((WIDTH - LEFT - 6) * place) / Math.max(1, points.length - 1);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / most);
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": title });
  for (const part of [0, 0.5, 1]) {
    drawing.append(svg("line", { x1: LEFT, x2: WIDTH - 6, y1: y(part * most), y2: y(part * most), class: "grid" }),
      svg("text", { x: LEFT - 6, y: y(part * most) + 4, class: "tick end" }, shown(part * most)));
  }
  drawing.append(svg("text", { x: LEFT, y: HEIGHT - 4, class: "tick" }, ends[0]), svg("text", { x: WIDTH - 6, y: HEIGHT - 4, class: "tick end" }, ends[1]));
  series.forEach((each, number) => {
    let path = "";
    let pen = "M";
    each.values.forEach((value, place) => {
      if (value === null) pen = "M";
      else {
        path += `${pen}${x(place).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = "L";
      }
    });
    drawing.append(svg("path", { d: path, class: `series s${number}` }));
    each.values.forEach((value, place) => {
      if (value) {
        drawing.append(svg("circle", { cx: x(place), cy: y(value), r: 2.4, class: `dot s${number}` },
          svg("title", {}, `${clock(points[place].at)} ${each.name} ${shown(value)}`)));
      }
    });
  });
  return drawing;
}

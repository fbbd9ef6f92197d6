// Asks for the run's data every two seconds while it can be seen, and draws it. Works on its own and in Locust's tab.
"use strict";

const EVERY_MS = 2000;
const element = (id) => document.getElementById(id);
const known = (values) => values.filter((value) => value !== null);

// Plotly writes dates as m:ss, and reads small numbers as years: the run's zero is some midnight.
const ZERO = Date.UTC(2000, 0, 1);
const moment = (seconds) => ZERO + 1000 * seconds;

let shown = null; // the last answer

function isDark() {
  // Locust's own rule; its switch writes the same key, which other documents of the origin learn by `storage`.
  const theme = localStorage.getItem("theme");
  return theme === "dark" || (theme === null && matchMedia("(prefers-color-scheme: dark)").matches);
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 60) % 60, whole % 60].map((part) => String(part).padStart(2, "0"));
  return whole < 3600 ? parts.join(":") : [Math.floor(whole / 3600), ...parts].join(":");
}

function digits(value) {
  if (value === 0) return "0";
  return value >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

function latency(seconds) {
  if (seconds === null) return "–";
  return seconds < 1 ? `${digits(seconds * 1000)} ms` : `${digits(seconds)} s`;
}

function rate(value) {
  return value === null ? "–" : `${digits(value)}/s`;
}

function share(part) {
  return part === null ? "–" : `${digits(100 * part)} %`;
}

// Charts

function highest(chart, columns) {
  const lines = chart.lines.map(([, column]) => columns[column]);
  const heights = (at) => lines.map((line) => line[at] ?? 0);
  const together = chart.shape ? (values) => values.reduce((sum, value) => sum + value, 0) : (values) => Math.max(...values);
  return Math.max(...columns.middle_s.map((_, at) => together(heights(at))));
}

function unitOf(chart, columns) {
  if (chart.kind === "share") return { factor: 100, name: "%" };
  if (chart.kind !== "latency") return { factor: 1, name: "" };
  return highest(chart, columns) < 2 ? { factor: 1000, name: "ms" } : { factor: 1, name: "s" };
}

function tracesOf(chart, columns, unit, theme) {
  const x = columns.middle_s.map(moment);
  return chart.lines.map(([name, column, colour, area]) => {
    const y = columns[column].map((value) => (value === null ? null : value * unit.factor));
    const paint = typeof colour === "number" ? SHADES[theme][colour] : COLOURS[theme][colour];
    const trace = { name, x, y, hovertemplate: `%{y:.4~g} ${unit.name}` };
    if (chart.shape === "bars") return { ...trace, type: "bar", marker: { color: paint } };
    const line = { color: paint, width: 2 };
    if (chart.shape === "areas") return { ...trace, mode: "lines", stackgroup: "one", stackgaps: "interpolate", line: { ...line, width: 1 } };
    const points = { ...trace, mode: "lines+markers", connectgaps: true, line, marker: { color: paint, size: 4 } };
    return area ? { ...points, fill: "tozeroy" } : points;
  });
}

function layoutOf(chart, data, unit) {
  const style = getComputedStyle(document.documentElement);
  const [text, muted, line, background] = ["--text", "--muted", "--line", "--background"].map((name) =>
    style.getPropertyValue(name),
  );
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickfont: { color: muted }, fixedrange: true };
  const shapes = [];
  if (data.warmup_s > 0) {
    const area = { type: "rect", x0: ZERO, x1: moment(data.warmup_s), yref: "paper", y0: 0, y1: 1 };
    shapes.push({ ...area, fillcolor: muted, opacity: 0.1, line: { width: 0 }, layer: "below" });
  }
  if (data.slo[chart.slo]) {
    const y = data.slo[chart.slo] * unit.factor;
    const dashed = { type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y };
    shapes.push({ ...dashed, line: { color: muted, width: 1, dash: "dash" } });
  }
  // A bound of the SLO far above the values would press them to the ground: it is seen when they come near it.
  const top = chart.kind === "share" ? 103 : 1.08 * unit.factor * highest(chart, data.windows) || 1;
  const end = Math.max(data.until_s, data.width_s);
  return {
    margin: { l: 52, r: 8, t: 26, b: 26 },
    font: { family: "Roboto, Helvetica, Arial, sans-serif", size: 12, color: text },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hovermode: "x unified",
    hoverlabel: { bgcolor: background, bordercolor: line, font: { color: text } },
    showlegend: chart.lines.length > 1,
    legend: { orientation: "h", traceorder: "normal", x: 1, xanchor: "right", y: 1, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
    barmode: "stack",
    bargap: 0.1,
    shapes,
    xaxis: { ...axis, type: "date", range: [ZERO, moment(end)], tickformat: end < 3600 ? "%M:%S" : "%-H:%M", hoverformat: "%-H:%M:%S", nticks: 8 },
    yaxis: { ...axis, range: [0, top], ticksuffix: unit.name && ` ${unit.name}`, nticks: 6 },
  };
}

function figureOf(chart) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const note = document.createElement("span");
  const plot = Object.assign(document.createElement("div"), { id: chart.id, className: "chart" });
  caption.append(chart.title, note);
  figure.append(caption, plot);
  return figure;
}

function drawChart(chart, data) {
  const plot = element(chart.id);
  const figure = plot.parentElement;
  figure.hidden = chart.fromProxy && chart.lines.every(([, column]) => !known(data.windows[column]).length);
  if (figure.hidden) return;
  const theme = isDark() ? "dark" : "light";
  const unit = unitOf(chart, data.windows);
  const bound = data.slo[chart.slo];
  figure.querySelector("figcaption span").textContent = chart.note + (bound ? `; dashed: SLO ${latency(bound)}` : "");
  Plotly.react(plot, tracesOf(chart, data.windows, unit, theme), layoutOf(chart, data, unit), {
    displayModeBar: false,
    responsive: true,
  });
}

// Text

function facts(data) {
  return [
    `run ${data.run}`,
    `${data.state} ${data.state === "running" ? "for" : "after"} ${clock(data.until_s)}`,
    `a point for every ${data.width_s} s`,
    `SLO: ${data.slo.text}`,
    ...(data.warmup_s > 0 ? [`warm-up of ${latency(data.warmup_s)} shaded, not in the totals`] : []),
  ].join(" · ");
}

function totals({ totals: total }) {
  const { failed, cut_off, cancelled } = total;
  return [
    ["Completed", digits(total.completed), `of ${digits(total.ended)} · ${rate(total.completed_per_s)}`],
    ["Goodput", rate(total.good_per_s), `${share(total.good_share)} of the requests`],
    ["TTFT P50", latency(total.ttft_p50_s), `P99 ${latency(total.ttft_p99_s)}`],
    ["ITL P50", latency(total.itl_p50_s), `P99 ${latency(total.itl_p99_s)}`],
    ["TPOT P50", latency(total.tpot_p50_s), `P99 ${latency(total.tpot_p99_s)}`],
    ["Output tokens", rate(total.output_tokens_per_s), "all streams together"],
    ["Failed", digits(failed), `${digits(cut_off)} cut off · ${digits(cancelled)} cancelled`],
  ];
}

function elementWith(tag, text, attributes = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...attributes });
}

// What has not changed stays, with the focus or the selection that it may have.
function show(id, children) {
  const next = document.createElement("div");
  next.append(...children);
  if (element(id).innerHTML !== next.innerHTML) element(id).replaceChildren(...next.childNodes);
}

function link(text, href) {
  return elementWith("a", text, { href, target: "_blank" });
}

function elsewhere(data) {
  const console = `${location.protocol}//${location.hostname}:${data.console_port}/`;
  return [link("all runs", "../runs/"), ...(data.console_port ? [link("console", console)] : [])];
}

function draw(data) {
  document.documentElement.classList.toggle("dark", isDark());
  if (!data.run) {
    element("facts").textContent = "No test has begun yet.";
    show("files", elsewhere(data));
    return;
  }
  element("facts").textContent = facts(data);
  show(
    "warnings",
    data.warnings.map((warning) => elementWith("li", warning)),
  );
  show("files", [
    ...data.files.map((name) => link(name, `../runs/${encodeURIComponent(data.run)}/${name}`)),
    ...elsewhere(data),
  ]);
  show(
    "totals",
    totals(data).map(([name, value, more]) => {
      const group = document.createElement("div");
      group.append(elementWith("dt", name), elementWith("dd", value), elementWith("dd", more));
      return group;
    }),
  );
  for (const chart of CHARTS) drawChart(chart, data);
}

async function poll() {
  if (innerWidth > 0) {
    // otherwise another tab of Locust is open
    try {
      const answer = await fetch("./data");
      if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
      shown = await answer.json();
      draw(shown);
      element("problem").hidden = true;
    } catch (error) {
      element("problem").textContent = `Locust gave no data: ${error.message}. Trying again; what is shown may be old.`;
      element("problem").hidden = false;
    }
  }
  setTimeout(poll, EVERY_MS);
}

addEventListener("storage", ({ key }) => key === "theme" && shown && draw(shown));
if (frameElement) {
  // As high as the page, which then needs no scroll bar of its own. Hidden it has no height, and keeps the last one.
  const main = document.querySelector("main");
  const fit = () => main.offsetHeight > 0 && (frameElement.style.height = `${main.offsetHeight}px`);
  new ResizeObserver(fit).observe(main);
  document.documentElement.style.overflowY = "hidden";
}
document.documentElement.classList.toggle("dark", isDark());
element("charts").append(...CHARTS.map(figureOf)); // all at once: a chart takes its width from its column
poll();

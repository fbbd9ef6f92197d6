// Rates, times and failures of the last fifteen minutes.

import { chart } from "/console/chart.js";
import { el, ms, number, share, table } from "/console/dom.js";
import { ratioCard } from "/console/ratio.js";
import { t, why } from "/console/words.js";

export function nowView(root, app) {
  let told = null;
  let ratio = null;

  function draw() {
    if (told === null) return;
    const last = [...told.points].reverse().slice(1, 5); // a minute, without the point that is not over
    const mean = (name) => last.reduce((total, point) => total + point[name], 0) / last.length;
    const refused = told.statuses.find(([status]) => status === "429")?.[1] ?? 0;
    const failed = told.statuses.filter(([status]) => status >= "500").reduce((total, [, count]) => total + count, 0);
    const tiles = [
      ["ttft", ms(told.ttft_ms.p50), `${t("p95")} ${ms(told.ttft_ms.p95)}`],
      ["itl", ms(told.itl_ms.p50), `${t("p95")} ${ms(told.itl_ms.p95)}`],
      ["perSecond", number(mean("requests_per_s")), `${number(told.requests)} ${t("requests")}`],
      ["eventsPerSecond", number(mean("events_per_s")), ""],
      ["running", number(told.running), `${t("queued")} ${number(told.queued)} / ${number(told.most_queued)}`],
      ["refused", number(refused), ""],
      ["failed", number(failed), "5xx"],
    ];
    root.replaceChildren(
      el("h2", {}, t("lastMinutes")),
      ratioCard(ratio),
      el("div", { class: "tiles" }, tiles.map(([name, value, more]) => el("div", { class: "card tile", "data-tile": name },
        el("h3", {}, t(name)), el("strong", {}, value), el("span", { class: "note" }, more)))),
      el("div", { class: "charts pairs" },
        quantiles("ttft", t("ttft"), "ttft_ms"), quantiles("itl", `${t("itl")} (${t("itlNote")})`, "itl_ms"),
        rates("perSecond", "requests_per_s"), rates("eventsPerSecond", "events_per_s")),
      el("div", { class: "charts" }, el("div", { class: "card", id: "shares" }, el("h3", {}, t("shares")), shares()),
        el("div", { class: "card", id: "causes" }, el("h3", {}, t("byCause")), causes("ofRequests", told.outcomes), causes("ofLegs", told.legs)),
        el("div", { class: "card" }, el("h3", {}, t("statuses")), counts(t("statuses"), t("status"), told.statuses)),
        loadtests()));
  }

  /** Its page is another origin, on the host of this one: links, and nothing is read from there. */
  function loadtests() {
    if (!told.loadtest.port) return null;
    const at = `${location.protocol}//${location.hostname}:${told.loadtest.port}`;
    const link = (path, text) => el("a", { href: at + path, target: "_blank", rel: "noopener" }, text);
    const runs = told.loadtest.runs.map((run) => el("li", {}, link(`/runs/${run.report.split("/").map(encodeURIComponent).join("/")}`, run.name)));
    return el("div", { class: "card", id: "loadtests" }, el("h3", {}, t("loadtests")),
      el("p", {}, link("/", t("locust")), " · ", link("/runs/", t("allRuns"))),
      runs.length ? el("ul", {}, runs) : null);
  }

  const ends = () => [t("minutesAgo"), t("nowLabel")];

  function quantiles(id, title, name) {
    const series = ["p50", "p95"].map((part) => ({ name: t(part), values: told.points.map((point) => point[name][part]) }));
    return el("figure", { class: "card", id: `chart-${id}` }, el("figcaption", {}, el("h3", {}, title),
      series.map((each, number) => el("span", { class: `key s${number}` }, each.name))), chart(title, told.points, series, ms, ends()));
  }

  function rates(name, field) {
    const series = [{ name: t(name), values: told.points.map((point) => point[field]) }];
    return el("figure", { class: "card", id: `chart-${name}` }, el("figcaption", {}, el("h3", {}, t(name))), chart(t(name), told.points, series, number, ends()));
  }

  function shares() {
    const total = told.paths.reduce((sum, each) => sum + each[2], 0);
    if (!total) return el("p", {}, t("noRequests"));
    return el("ul", { class: "shares" }, told.paths.map(([path, reason, count]) => el("li", { title: why(path, reason) },
      el("span", { class: "name" }, path === reason ? path : `${path} · ${reason}`),
      el("span", { class: "track" }, el("span", { class: `bar ${path}`, style: { width: `${(100 * count) / total}%` } })),
      el("span", { class: "note" }, `${number(count)}, ${share(count / total)}`))));
  }

  const causes = (title, list) => el("div", {}, el("h4", {}, t(title)), counts(t(title), t("cause"), list));

  function counts(caption, name, list) {
    return list.length ? table(caption, [name, t("count")], list.map(([what, count]) => [what, number(count)])) : el("p", { class: "note" }, t("nothing"));
  }

  return {
    every: 5000,
    get workers() { return told?.workers.length ?? 1; },
    draw,
    async refresh() {
      [told, ratio] = await Promise.all([app.get("/console/api/now"), app.get("/console/api/ratio")]);
      draw();
    },
  };
}

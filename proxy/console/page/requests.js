// The last thousand requests as a table that can be filtered, and all that is known of one of them.

import { clock, el, ms, number } from "/console/dom.js";
import { t, why } from "/console/words.js";
import { details } from "/console/waterfall.js";

const MOST = 1000; // as many as the proxy keeps
const PAGE = 100;

export function requestsView(root, app) {
  const known = new Map();
  let workers = 1;
  let since = 0;
  let shown = PAGE;
  let opened = null;
  let filters = {};
  const wanted = { search: "", path: "", status: "", slow: false, slowMs: "1000", failed: false, recomputed: false };
  let body, count, more, detail, empty;

  function field(name, type, attributes = {}) {
    const input = el("input", { id: `filter-${name}`, type, ...attributes });
    if (type === "checkbox") input.checked = wanted[name];
    else input.value = wanted[name];
    return listening(name, input);
  }

  function listening(name, input) {
    input.addEventListener(input.tagName === "SELECT" ? "change" : "input", () => {
      wanted[name] = input.type === "checkbox" ? input.checked : input.value;
      shown = PAGE;
      rows();
    });
    return input;
  }

  function choice(name, options) {
    const select = el("select", { id: `filter-${name}` }, options.map(([value, words]) => el("option", { value }, words)));
    select.value = wanted[name];
    return listening(name, select);
  }

  function draw() {
    const check = (name) => el("label", {}, field(name, "checkbox"), " ", t(name));
    filters = el("form", { class: "filters card", onsubmit: (event) => event.preventDefault() },
      el("label", {}, t("search"), " ", field("search", "search", { placeholder: t("searchHint") })),
      el("label", {}, t("path"), " ", choice("path", [["", t("all")], ["disaggregated", "disaggregated"], ["local", "local"], ["none", t("none")]])),
      el("label", {}, t("status"), " ", choice("status", [["", t("all")], ["2", "2xx"], ["4", "4xx"], ["429", "429"], ["499", "499"], ["5", "5xx"]])),
      el("label", {}, field("slow", "checkbox"), " ", t("slow"), " ", field("slowMs", "number", { min: 0, "aria-label": "ms" }), " ms"),
      check("failed"), check("recomputed"),
      count = el("output", {}));
    body = el("tbody", {});
    const head = ["time", "id", "status", "way", "instances", "ttft", "total", "phases", "tries"];
    empty = el("p", { class: "notice" });
    more = el("button", { type: "button", onclick: () => { shown += PAGE; rows(); } }, t("more"));
    detail = el("section", { class: "card detail", tabindex: "-1", hidden: true });
    root.replaceChildren(filters, el("div", { class: "beside-table" },
      el("div", { class: "list" }, el("div", { class: "scroll" }, el("table", { class: "requests" },
        el("caption", { class: "hidden" }, t("requests")),
        el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col", class: name }, t(name))))), body)), empty, more),
      detail));
    rows();
    if (opened) showDetail(opened);
  }

  function fits(row) {
    if (wanted.path && (row.path ?? "none") !== wanted.path) return false;
    if (wanted.status && !String(row.status).startsWith(wanted.status)) return false;
    if (wanted.failed && ["ok", "client_left"].includes(row.outcome)) return false;
    if (wanted.recomputed && !row.recomputed) return false;
    if (wanted.slow && (row.ttft_ms ?? row.duration_ms) <= Number(wanted.slowMs)) return false;
    const text = wanted.search.trim().toLowerCase();
    return !text || [row.request_id, row.model, row.client, row.producer, row.consumer, row.reason, row.outcome, row.failure]
      .some((value) => value?.toLowerCase().includes(text));
  }

  function rows() {
    const fitting = [...known.values()].filter(fits);
    const focused = document.activeElement?.closest?.("tr")?.dataset.key;
    body.replaceChildren(...fitting.slice(0, shown).map(line));
    if (focused) body.querySelector(`[data-key="${CSS.escape(focused)}"] button`)?.focus();
    count.textContent = t("shown", number(Math.min(shown, fitting.length)), number(fitting.length));
    more.hidden = fitting.length <= shown;
    empty.hidden = fitting.length > 0;
    empty.textContent = t(known.size ? "noMatch" : "noRequests");
  }

  function line(row) {
    const good = row.outcome === "ok";
    const cells = {
      time: clock(row.at),
      id: el("button", { type: "button", class: "link", onkeydown: walk }, row.request_id),
      status: el("span", { class: `pill ${good ? "good" : row.outcome === "client_left" ? "warn" : "bad"}` }, `${row.status}${good ? "" : ` ${row.outcome}`}`),
      way: row.path ? el("span", { title: why(row.path, row.reason) }, row.path, row.reason === row.path ? "" : ` · ${row.reason}`, row.recomputed ? el("span", { class: "bad" }, ` ${t("recomputed")}`) : null) : "–",
      instances: [row.producer, row.consumer].filter(Boolean).join(" → ") || "–",
      ttft: ms(row.ttft_ms),
      total: ms(row.duration_ms),
      phases: small(row),
      tries: number(row.attempts),
    };
    return el("tr", { "data-key": row.key, class: row.key === opened ? "opened" : "", onclick: () => app.open("requests", row.key) },
      Object.entries(cells).map(([name, cell]) => el("td", { class: name }, cell)));
  }

  /** Arrow keys lead from row to row. */
  function walk(event) {
    const row = event.target.closest("tr");
    const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
    if (!next) return;
    event.preventDefault();
    next.querySelector("button").focus();
  }

  async function showDetail(name) {
    opened = name;
    const request = await app.get(`/console/api/requests/${encodeURIComponent(name)}`).catch(() => null);
    if (opened !== name) return;
    detail.hidden = false;
    detail.replaceChildren(
      el("h2", {}, request ? request.request_id : name, " ", el("button", { type: "button", class: "plain close", onclick: close }, t("close"))),
      request ? details(request) : el("p", {}, t("gone")));
    for (const row of body.rows) row.classList.toggle("opened", row.dataset.key === opened);
  }

  function close() {
    const row = body.querySelector(`[data-key="${CSS.escape(opened ?? "")}"] button`);
    app.open("requests");
    row?.focus();
  }

  root.addEventListener("keydown", (event) => event.key === "Escape" && opened && close());

  return {
    every: 2000,
    get workers() { return workers; },
    draw,
    show(name) {
      if (name === null) {
        opened = null;
        detail.hidden = true;
        for (const row of body.rows) row.classList.remove("opened");
      } else if (name !== opened) {
        showDetail(name).then(() => { detail.focus({ preventScroll: true }); detail.scrollIntoView({ block: "nearest" }); });
      }
    },
    async refresh() {
      const told = await app.get(`/console/api/requests?since=${since}`);
      workers = told.workers.length;
      const before = known.size;
      const fresh = told.requests.filter((row) => !known.has(row.key));
      if (!fresh.length && before) return;
      const all = [...fresh, ...known.values()].sort((one, other) => other.at - one.at).slice(0, MOST);
      known.clear();
      for (const row of all) known.set(row.key, row);
      since = all.length ? all[0].at - 5 : 0; // another worker may tell a little later of what ended a little earlier
      rows();
    },
  };
}

function small(row) {
  const parts = Object.entries(row.phases_ms);
  const total = Math.max(row.duration_ms, 0.01);
  const words = parts.map(([name, length]) => `${t(name)} ${ms(length)}`).join(", ");
  return el("span", { class: "small-bars", role: "img", "aria-label": words || "–", title: words },
    parts.map(([name, length]) => el("span", { class: `bar ${name}`, style: { width: `${(100 * length) / total}%` } })),
    row.stream && row.ttft_ms !== null ? el("span", { class: "bar tokens", style: { width: `${Math.max(0, 100 * (1 - row.ttft_ms / total))}%` } }) : null);
}

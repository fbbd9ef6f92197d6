// One request's time, drawn from its own facts: the phases follow each other and add up to its Server-Timing.

import { bytes, el, ms, share, table } from "/console/dom.js";
import { t, why } from "/console/words.js";

export const PHASES = ["queue", "prefill", "transfer", "first_step", "answer"];
const WHOLE_IF_OVER = 0.2; // of the whole request is before the first token: else the phases would be too small to see
const MOST_WRITES = 64;

/** Rows of {name, start, length (ms), kind, note}; `phase`: whether its length is a part of the sum. */
export function rowsOf(request) {
  const rows = [];
  let at = 0;
  const phases = Object.entries(request.phases_ms);
  request.tries.slice(0, -1).forEach((each, number) => {
    const until = request.tries[number + 1].dispatched_ms;
    rows.push({ name: t("untilTry", number + 1), kind: "failed", start: each.dispatched_ms, length: until - each.dispatched_ms,
      note: [each.producer, each.consumer].filter(Boolean).join(" → ") });
  });
  for (const [name, length] of phases) {
    if (name === "transfer") rows.push(...transfer(request, at));
    rows.push({ name: t(name), phase: name, kind: name, start: at, length, note: ms(length) });
    at += length;
  }
  if (request.second_token_ms !== null && request.first_token) {
    rows.push({ name: t("second"), kind: "tokens", start: at, length: request.second_token_ms, note: ms(request.second_token_ms) });
  }
  const left = request.duration_ms - at;
  if (request.stream && request.first_ms !== null && left > 0) {
    rows.push({ name: t("tokens"), kind: "tokens", start: at, length: left, note: t("tokensNote", request.events, ms(request.itl_ms)) });
  }
  return rows;
}

/** All of the transfer ran under the prefill until `exposed` of it was left; the connector may tell each write. */
function transfer(request, prefilledAt) {
  const facts = request.transfer;
  if (!facts.bytes) return [];
  const length = 1000 * (facts.seconds ?? 0);
  const start = Math.max(0, prefilledAt + 1000 * (facts.exposed_seconds ?? 0) - length);
  const note = t("transferNote", bytes(facts.bytes), facts.transport ?? "–", share((facts.early_bytes ?? 0) / facts.bytes));
  const writes = Array.isArray(facts.writes) ? facts.writes.slice(0, MOST_WRITES) : [];
  return [
    { name: t("wholeTransfer"), kind: "whole-transfer", start, length, note },
    ...writes.map((write) => ({
      name: `${t("write")} ${write.layers ?? ""}`, kind: "write", start: start + 1000 * (write.at ?? 0),
      length: 1000 * (write.seconds ?? 0), note: bytes(write.bytes),
    })),
  ];
}

export function waterfall(request) {
  const rows = rowsOf(request);
  const phases = Object.entries(request.phases_ms);
  const first = request.first_ms ?? request.duration_ms;
  const whole = Math.max(request.duration_ms, 0.01);
  let toFirst = first < WHOLE_IF_OVER * whole;
  const bars = el("div", { class: "bars" });

  function draw() {
    const scale = toFirst ? Math.max(first, 0.01) : whole;
    const place = (value) => `${Math.min(100, Math.max(0, (100 * value) / scale))}%`;
    bars.replaceChildren(...rows.map((row) => {
      const bar = el("span", { class: `bar ${row.kind}`, style: { left: place(row.start), width: place(Math.min(row.length, scale - row.start)) } });
      return el("div", { class: `row ${row.kind}`, "data-phase": row.phase, "data-ms": row.length },
        el("span", { class: "name" }, row.name), el("span", { class: "track" }, bar), el("span", { class: "note" }, row.note));
    }), el("div", { class: "row axis" }, el("span"), el("span", { class: "track" }, el("span", {}, "0"), el("span", {}, ms(scale / 2)), el("span", {}, ms(scale))), el("span")));
    button.textContent = t(toFirst ? "wholeTime" : "toFirst");
  }

  const button = el("button", { type: "button", class: "plain", onclick: () => { toFirst = !toFirst; draw(); } });
  draw();
  const sum = phases.reduce((total, [, length]) => total + length, 0);
  const sums = phases.map(([name, length]) => `${t(name)} ${length.toFixed(2)}`).join(" + ");
  return el("div", { class: "waterfall" },
    el("h3", {}, t("waterfall"), " ", request.stream && request.first_ms !== null ? button : null), bars,
    phases.length ? el("p", { class: "sum" }, `${t("sum")}: ${sums} = `, el("strong", {}, ms(sum)), ` (${t(request.stream ? "ttft" : "total")})`) : null);
}

/** All that is known of a request: its waterfall, and beside it how it went and why. */
export function details(request) {
  const facts = [
    ["id", el("code", { class: "all" }, request.request_id)],
    ["status", `${request.status} ${request.outcome}`],
    ["failure", request.failure],
    ["path", request.path ? `${request.path} · ${request.reason}` : null],
    ["reason", request.path ? why(request.path, request.reason) : null],
    ["endpoint", request.endpoint],
    ["model", request.model],
    ["client", request.client],
    ["producer", request.producer],
    ["consumer", request.consumer],
    ["first", request.first_token
      ? [request.first_token, request.transfer.first_token_way ?? request.transfer.first_token_cause].filter(Boolean).join(" · ") : null],
    ["total", ms(request.duration_ms)],
    ["output", `${bytes(request.bytes)}${request.stream ? `, ${t("tokensNote", request.events, ms(request.itl_ms))}` : ""}`],
    ["recomputed", request.recomputed ? "✓" : null],
    ["worker", String(request.worker)],
  ];
  const tries = request.tries.map((each, number) => [
    String(number + 1), each.producer ?? "–", each.consumer, each.reason, ms(each.dispatched_ms), ms(each.prefilled_ms), ms(each.answered_ms),
  ]);
  return el("div", { class: "details" },
    waterfall(request),
    el("div", { class: "beside" },
      el("div", {}, el("h3", {}, t("facts")),
        el("dl", {}, facts.filter(([, value]) => value !== null).map(([name, value]) => [el("dt", {}, t(name)), el("dd", {}, value)]))),
      el("div", {}, el("h3", {}, t("headers")),
        el("dl", { class: "headers" }, Object.entries(request.headers).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])))),
    tries.length ? el("div", {}, el("h3", {}, t("tries")),
      table(t("tries"), ["", t("producer"), t("consumer"), t("reason"), t("dispatched"), t("prefilled"), t("answered")], tries)) : null);
}

// One request's time, drawn from its own facts: the phases follow each other and add up to its Server-Timing.

import { bytes, el, ms, number, share, table } from "/console/dom.js";
import { t, why } from "/console/words.js";

export const PHASES = ["queue", "prefill", "transfer", "first_step", "answer"];
const LINE = 5; // px, of one write
const WHOLE_IF_OVER = 0.2; // of the whole request is before the first token: else the phases would be too small to see

/** Rows of {name, start, length (ms), kind, note}; `phase`: whether its length is a part of the sum; `parts`: several
 * {start, length, title} in one track, each on a line of its own where the row is `tall`. */
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
    if (name === "prefill") rows.push(...chunks(request, at));
  }
  if (request.second_token_ms !== null && request.first_ms !== null) {
    rows.push({ name: t("secondToken"), kind: "second", start: at, length: request.second_token_ms, note: ms(request.second_token_ms) });
  }
  const left = request.duration_ms - at;
  if (request.stream && request.first_ms !== null && left > 0) {
    rows.push({ name: t("tokens"), kind: "tokens", start: at, length: left, note: t("tokensNote", request.events, ms(request.itl_ms)) });
  }
  return rows;
}

/** As the producer has told them, on its clock: with their end at the prefill's end. */
function chunks(request, prefilledAt) {
  const parts = request.chunks.map((chunk) => ({
    start: prefilledAt + chunk.at_ms, length: chunk.ms, title: t("chunkTitle", number(chunk.end), ms(chunk.ms)),
  }));
  return parts.length ? [{ name: t("chunks", number(parts.length)), kind: "chunks", parts, start: parts[0].start, note: t("chunksNote") }] : [];
}

/** All of the transfer ran under the prefill until `exposed` of it was left; the connector tells each write. */
function transfer(request, prefilledAt) {
  const facts = request.transfer;
  if (!facts.bytes) return [];
  const length = 1000 * (facts.seconds ?? 0);
  const start = Math.max(0, prefilledAt + 1000 * (facts.exposed_seconds ?? 0) - length);
  const note = t("transferNote", bytes(facts.bytes), facts.transport ?? "–", share((facts.early_bytes ?? 0) / facts.bytes));
  const parts = request.writes.map((write) => ({
    start: prefilledAt + write.at_ms, length: write.ms, late: write.at_ms + write.ms > 0,
    title: t("writeTitle", layers(write), bytes(write.bytes), ms(write.ms)),
  }));
  const count = request.writes.reduce((total, write) => total + write.writes, 0);
  const late = parts.filter((part) => part.late).length;
  return [
    { name: t("wholeTransfer"), kind: "whole-transfer", start, length, note },
    ...(parts.length ? [{ name: t("writes", number(count)), kind: "writes", parts, tall: true, start, note: t("writesNote", number(late)) }] : []),
  ];
}

const layers = (write) => (write.first_layer === write.last_layer ? String(write.first_layer) : `${write.first_layer}–${write.last_layer}`);

/** The same as a table, for who wants the numbers. */
function writeTable(request) {
  const rows = request.writes.map((write) => [layers(write), number(write.writes), bytes(write.bytes), ms(write.at_ms), ms(write.at_ms + write.ms), ms(write.ms)]);
  return rows.length ? el("details", { class: "writes" }, el("summary", {}, t("eachWrite")),
    table(t("eachWrite"), ["layers", "count", "size", "begins", "ends", "takes"].map((name) => t(`write_${name}`)), rows)) : null;
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
    const width = ({ start, length }) => place(Math.min(start + length, scale) - Math.max(start, 0)); // what of it is seen
    bars.replaceChildren(...rows.map((row) => {
      const parts = row.parts ?? [row];
      const marks = parts.map((part, line) => el("span", {
        class: `bar ${row.kind} ${part.late ? "late" : ""}`, title: part.title,
        style: { left: place(part.start), width: width(part), ...(row.tall ? { top: `${line * LINE}px` } : {}) },
      }));
      return el("div", { class: `row ${row.kind}`, "data-phase": row.phase, "data-ms": row.length },
        el("span", { class: "name" }, row.name),
        el("span", { class: "track", style: row.tall ? { height: `${parts.length * LINE + 2}px` } : {} }, marks),
        el("span", { class: "note" }, row.note));
    }), el("div", { class: "row axis" }, el("span"), el("span", { class: "track" }, el("span", {}, "0"), el("span", {}, ms(scale / 2)), el("span", {}, ms(scale))), el("span")));
    button.textContent = t(toFirst ? "wholeTime" : "toFirst");
  }

  const button = el("button", { type: "button", class: "plain", onclick: () => { toFirst = !toFirst; draw(); } });
  draw();
  const sum = phases.reduce((total, [, length]) => total + length, 0);
  const sums = phases.map(([name, length]) => `${t(name)} ${length.toFixed(2)}`).join(" + ");
  return el("div", { class: "waterfall" },
    el("h3", {}, t("waterfall"), " ", request.stream && request.first_ms !== null ? button : null), bars,
    phases.length ? el("p", { class: "sum" }, `${t("sum")}: ${sums} = `, el("strong", {}, ms(sum)), ` (${t(request.stream ? "ttft" : "total")})`) : null,
    writeTable(request));
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

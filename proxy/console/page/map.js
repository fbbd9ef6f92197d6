// Instances as they are now, and what flows between them.

import { bytes, el, number, share, svg, table } from "/console/dom.js";
import { t } from "/console/words.js";

const LABELLED = 4; // idle pairs up to which all lines are drawn; beyond, those on which something flows
const SIGN = { width: 168, line: 17, gap: 8 };
const OLD_S = 15; // a reading is given with its age beyond
const NAME = 20; // characters of a pair's names in a sign
const RANK = /_dp\d+$/; // of a data-parallel engine, at the end of its name

export function mapView(root, app) {
  let told = null;
  let drawn = "";

  function draw() {
    drawn = "";
    paint();
  }

  function paint() {
    if (told === null) return;
    const now = JSON.stringify({ ...told, instances: told.instances.map((each) => ({ ...each, age_s: 0, gauges: { ...each.gauges, age_s: Math.max(OLD_S, each.gauges?.age_s ?? 0) } })) });
    if (now === drawn) return;
    drawn = now;
    const of = (role) => told.instances.filter((each) => each.role === role);
    const fleet = el("div", { class: "fleet" },
      column("prefill", t("producers"), of("prefill")), el("div", { class: "between" }), column("decode", t("consumers"), of("decode")));
    root.replaceChildren(...[
      told.stale ? el("p", { class: "notice bad", role: "alert" }, `${t("stale")} ${told.stale_reason ?? ""}`) : null,
      told.instances.length ? fleet : el("p", { class: "notice" }, t("noInstance")),
      of("aggregated").length ? column("aggregated", t("aggregated"), of("aggregated")) : null,
      unreadable(),
      flows(),
      el("p", { class: "note" }, t("mapNote")),
    ].filter(Boolean));
    lines(fleet);
  }

  function unreadable() {
    const records = Object.entries(told.unreadable);
    return records.length ? el("div", { class: "card" }, el("h2", {}, t("unreadable")),
      el("dl", {}, records.map(([name, wrong]) => [el("dt", {}, name), el("dd", { class: "bad" }, wrong)]))) : null;
  }

  function flows() {
    const rows = told.flows.map((flow) => [
      mono(flow.producer), mono(flow.consumer), number(flow.bytes_per_s / 1e6),
      number(flow.moving_bytes_per_s === null ? null : flow.moving_bytes_per_s / 1e6),
      flow.transports.join(", ") || "–", share(flow.early_share), bytes(flow.bytes), number(flow.requests),
      failures(flow.failed), failures(flow.recomputed),
    ]);
    const head = ["producer", "consumer", "rate", "moving", "transport", "early", null, "count", "failed", "recomputed"];
    return el("div", { class: "card", id: "flows" }, el("h2", {}, t("flows")),
      rows.length ? table(t("flows"), head.map((name) => (name ? t(name) : "KV")), rows) : el("p", {}, t("noFlow")));
  }

  function lines(fleet) {
    const between = fleet.querySelector(".between");
    const box = between.getBoundingClientRect();
    if (!box.width || getComputedStyle(between).display === "none") return;
    const middle = (id) => {
      const card = fleet.querySelector(`[data-instance="${CSS.escape(id)}"]`);
      if (!card) return null;
      const { top, height } = card.getBoundingClientRect();
      return top + height / 2 - box.top;
    };
    const flowing = new Map(told.flows.map((flow) => [`${flow.producer} ${flow.consumer}`, flow]));
    const pairs = told.instances.filter((each) => each.role === "prefill")
      .flatMap((each) => each.pairs_with.map((other) => ({ producer: each.instance_id, consumer: other })));
    for (const flow of told.flows) {
      if (!pairs.some((pair) => pair.producer === flow.producer && pair.consumer === flow.consumer)) pairs.push(flow);
    }
    const most = Math.max(1, ...told.flows.map((flow) => flow.bytes_per_s));
    const drawing = svg("svg", { width: box.width, height: box.height, "aria-hidden": "true" });
    const signs = [];
    pairs.forEach((pair) => {
      const flow = flowing.get(`${pair.producer} ${pair.consumer}`);
      const [from, to] = [middle(pair.producer), middle(pair.consumer)];
      if (from === null || to === null || (!flow && pairs.length > LABELLED * LABELLED)) return;
      const bend = box.width / 2;
      const failed = flow && (flow.failed || flow.recomputed);
      drawing.append(svg("path", {
        d: `M0 ${from} C${bend} ${from} ${bend} ${to} ${box.width} ${to}`,
        class: `line ${flow ? "flowing" : "idle"} ${failed ? "failing" : ""}`,
        "stroke-width": flow ? 2 + 5 * Math.sqrt(flow.bytes_per_s / most) : 1.5,
      }));
      if (flow) signs.push({ y: (from + to) / 2, texts: said(flow, told.flows.length > 1) });
    });
    drawing.append(...apart(signs).map((each) => sign(each, box.width / 2)));
    between.replaceChildren(drawing);
  }

  return {
    every: 2000,
    get workers() { return told?.workers.length ?? 1; },
    draw,
    async refresh() {
      told = await app.get("/console/api/map");
      paint();
    },
    show() {
      drawn = "";
      paint();
    },
  };
}

const mono = (text) => el("code", {}, text);
const failures = (count) => el("span", { class: count ? "bad" : "" }, number(count));

/** What is written on a line; with names where there are several. */
function said(flow, named) {
  const failed = flow.failed + flow.recomputed;
  const name = `${flow.producer} → ${flow.consumer}`;
  return [
    named ? (name.length > NAME + 4 ? `${short(flow.producer)} → ${short(flow.consumer)}` : name) : null,
    flow.bytes ? `${number(flow.bytes_per_s / 1e6)} MB/s · ${flow.transports.join(", ")}` : t("nothingMoved"),
    [flow.bytes ? t("earlyShare", share(flow.early_share)) : null, failed ? `${number(failed)} ✗` : null].filter(Boolean).join(" · ") || null,
  ].filter(Boolean);
}

function short(name) {
  const rank = RANK.exec(name)?.[0] ?? "";
  return `${name.slice(0, NAME / 2 - rank.length)}…${rank}`;
}

const height = (each) => each.texts.length * SIGN.line + 10;

/** Signs one below the other, each as near to its line as there is room. */
function apart(signs) {
  const wanted = signs.sort((one, other) => one.y - other.y).map((each) => each.y);
  let free = -Infinity;
  for (const each of signs) {
    each.y = Math.max(each.y, free + height(each) / 2);
    free = each.y + height(each) / 2 + SIGN.gap;
  }
  const moved = signs.reduce((sum, each, place) => sum + each.y - wanted[place], 0) / Math.max(1, signs.length);
  for (const each of signs) each.y -= moved;
  return signs;
}

function sign(each, x) {
  const top = -height(each) / 2;
  return svg("g", { transform: `translate(${x} ${each.y})`, class: "sign" },
    svg("rect", { x: -SIGN.width / 2, y: top, width: SIGN.width, height: height(each), rx: 8 }),
    each.texts.map((text, line) => svg("text", { y: top + 18 + line * SIGN.line, class: /MB\/s/.test(text) ? "" : "small" }, text)));
}

function column(role, title, instances) {
  return el("div", { class: `column ${role}` }, el("h2", {}, title), instances.map(card));
}

function standing(each) {
  if (each.verdict.circuit !== "closed") return ["bad", t("leftAlone")];
  if (each.role !== "aggregated" && !each.pairs_with.length) return ["warn", t("unpaired")];
  return each.verdict.in_doubt ? ["warn", t("inDoubt")] : ["good", t("inUse")];
}

// How old an instance's figures are, where an ended load could be taken for one of now.
function withAge(words, own) {
  return own.age_s > OLD_S ? `${words} · ${t("agoOnly", Math.round(own.age_s))}` : words;
}

function blocks(own) {
  return withAge(own.blocks ? t("ofBlocks", number(own.free_blocks), number(own.blocks)) : number(own.free_blocks), own);
}

function listed(names, count) {
  return count > names.length ? `${names.join(", ")} … (${number(count)})` : names.join(", ") || "–";
}

function card(each) {
  const [kind, words] = standing(each);
  const { last_check: check, circuit, failures: failed } = each.verdict;
  const own = each.gauges;
  const facts = [
    ["model", each.served_models.join(", ")],
    ["transports", each.transports.join(", ") || "–"],
    ["inHand", t("requestsTokens", number(each.outstanding), number(each.outstanding_tokens))],
    ["pairsWith", each.role === "aggregated" ? null : listed(each.pairs_with, each.pairs_with_count)],
    ["freeBlocks", own?.free_blocks === undefined ? null : blocks(own)],
    ["held", own?.blocks_held === undefined ? null : t(each.role === "prefill" ? "heldByProducer" : "heldByConsumer", number(own.blocks_held))],
    ["inEngine", own ? withAge(t("engine", number(own.running), number(own.waiting), share(own.cache_usage)), own) : null],
    ["circuit", circuit + (failed ? ` · ${number(failed)} ${t("failures")}` : "")],
    ["lastCheck", check ? t("ago", check.result, Math.round(check.age_s)) : null],
    ["version", `${each.vllm_version} · ${each.dtype} · TP ${each.tensor_parallel_size}${each.pipeline_parallel_size > 1 ? ` · PP ${each.pipeline_parallel_size}` : ""}`],
    ["engine", each.data_parallel_rank === null ? null : t("rankOf", each.data_parallel_rank, each.server)],
  ];
  return el("article", { class: `card instance ${each.role}`, "data-instance": each.instance_id },
    el("h3", {}, each.instance_id, " ", el("span", { class: `pill ${kind}` }, words)),
    el("p", { class: "note" }, each.url),
    el("dl", {}, facts.filter(([, value]) => value !== null).map(([name, value]) => [el("dt", {}, t(name)), el("dd", {}, value)])),
    each.not_paired.length ? el("div", { class: "reasons" }, el("strong", {}, t("whyNot")),
      el("ul", {}, each.not_paired.slice(0, 5).map((reason) => el("li", {}, reason)))) : null);
}

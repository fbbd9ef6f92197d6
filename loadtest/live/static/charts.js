// What is drawn: charts with their lines, each a column of the data. Times arrive in seconds.
"use strict";

const SHADES = { light: ["#86b6ef", "#2f7ed8", "#123f76"], dark: ["#27599b", "#5b9df0", "#c2dcfb"] }; // P50, P90, P99
const COLOURS = {
  light: { green: "#15803d", grey: "#8b95a1", orange: "#d97706", red: "#c62828", purple: "#7c4dba", blue: "#2f7ed8" },
  dark: { green: "#4ade80", grey: "#8b95a1", orange: "#f5a83c", red: "#f16a6a", purple: "#b493e6", blue: "#5b9df0" },
};

// kind: latency (shown in ms or s), rate, number, share. slo: the bound that belongs to the chart. shape: lines if not
// told. fromProxy: other servers do not tell it, and then the chart is left out.
const CHARTS = [
  {
    id: "ttft", title: "TTFT", note: "scheduled start to first token", kind: "latency", slo: "ttft_s",
    lines: [["P50", "ttft_p50_s", 0], ["P90", "ttft_p90_s", 1], ["P99", "ttft_p99_s", 2]],
  },
  {
    id: "itl", title: "ITL", note: "gaps between chunks", kind: "latency",
    lines: [["P50", "itl_p50_s", 0], ["P99", "itl_p99_s", 2]],
  },
  {
    id: "tpot", title: "TPOT", note: "mean time per token after the first, of each request", kind: "latency", slo: "tpot_s",
    lines: [["P50", "tpot_p50_s", 0], ["P99", "tpot_p99_s", 2]],
  },
  {
    id: "rates", title: "Requests", note: "per second", kind: "rate",
    lines: [["goodput", "good_per_s", "green", "area"], ["completed", "completed_per_s", "blue"], ["offered", "offered_per_s", "grey"]],
  },
  {
    id: "losses", title: "Not completed", note: "per second", kind: "rate", shape: "bars",
    lines: [["failed", "failed_per_s", "red"], ["cut off", "cut_off_per_s", "orange"], ["cancelled", "cancelled_per_s", "grey"]],
  },
  {
    id: "running", title: "Running requests", note: "mean", kind: "number",
    lines: [["running", "running", "blue"]],
  },
  {
    id: "tokens", title: "Output tokens", note: "per second", kind: "rate",
    lines: [["tokens", "output_tokens_per_s", "blue"]],
  },
  {
    id: "start-delay", title: "Start delay", note: "scheduled to actual start: the generator's own", kind: "latency",
    lines: [["P50", "start_delay_p50_s", 0], ["P99", "start_delay_p99_s", 2]],
  },
  {
    id: "phases", title: "Phases of the TTFT", note: "mean, as the proxy tells", kind: "latency", shape: "areas", fromProxy: true,
    lines: [
      ["queue", "queue_mean_s", "grey"], ["prefill", "prefill_mean_s", "blue"],
      ["transfer", "transfer_mean_s", "orange"], ["first step", "first_step_mean_s", "green"],
    ],
  },
  {
    id: "share", title: "Disaggregated requests", note: "share, as the proxy tells", kind: "share", fromProxy: true,
    lines: [["disaggregated", "disaggregated_share", "purple"]],
  },
];

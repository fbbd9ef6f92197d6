"""How requests fare: TTFT, ITL, TPOT, goodput, and which way they take."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from observability.dashboards.panels import RATE, Graph, Number, dashboard, mean, quantiles, rate

GOOD = f'sum(rate(pd_proxy_streams_total{{ttft="met", tpot="met"}}{RATE}))'
STREAMS = f"sum(rate(pd_proxy_streams_total{RATE}))"
TTFT = "gen_ai_server_time_to_first_token_seconds"
TTFT_99 = f"histogram_quantile(0.99, sum by (le) (rate({TTFT}_bucket{RATE})))"


def requests() -> Dashboard:
    return dashboard(
        "pd-requests",
        "Requests",
        "TTFT, ITL, TPOT, goodput and paths of the requests of clients",
        [
            (
                "Now",
                [
                    Number("Requests", "reqps", f"sum(rate(pd_proxy_requests_total{RATE}))"),
                    Number(
                        "Goodput",
                        "percentunit",
                        f"{GOOD} / {STREAMS}",
                        "Streams whose TTFT and TPOT were within PROXY_GOODPUT_TTFT_S and PROXY_GOODPUT_TPOT_S",
                    ),
                    Number("TTFT, p99", "s", TTFT_99),
                    Number("In flight", "short", "sum(pd_proxy_requests_in_flight)", "Being served or waiting"),
                ],
            ),
            (
                "Latency",
                [
                    Graph("Time to first token", "s", quantiles(TTFT)),
                    Graph(
                        "Time to first token, by path",
                        "s",
                        quantiles("pd_proxy_time_to_first_token_seconds", by="path"),
                    ),
                    Graph(
                        "Phases of the time to first token",
                        "s",
                        [mean("pd_proxy_phase_seconds", "phase")],
                        "Means, which add up: queue, prefill, transfer, first_step (docs/proxy.md)",
                        stacked=True,
                    ),
                    Graph(
                        "Inter-token latency",
                        "s",
                        quantiles("vllm:inter_token_latency_seconds", '{role!="prefill"}'),
                        "Between two tokens, as vLLM measures it",
                    ),
                    Graph(
                        "Time per output token",
                        "s",
                        quantiles("gen_ai_server_time_per_output_token_seconds"),
                        "Of each stream its mean after the first token, as the proxy measures it",
                    ),
                    Graph("Duration", "s", quantiles("gen_ai_server_request_duration_seconds")),
                ],
            ),
            (
                "Throughput",
                [
                    Graph("Goodput", "reqps", [(GOOD, "good"), (STREAMS, "all streams")]),
                    Graph("Requests by status", "reqps", [rate("pd_proxy_requests_total", "status")], stacked=True),
                    Graph(
                        "Tokens",
                        "short",
                        [
                            (f"sum by (role) (rate(vllm:prompt_tokens_total{RATE}))", "{{role}} prompt tokens/s"),
                            (f"sum by (role) (rate(vllm:generation_tokens_total{RATE}))", "{{role}} tokens/s"),
                        ],
                    ),
                ],
            ),
            (
                "Paths",
                [
                    Graph(
                        "Path and reason", "reqps", [rate("pd_proxy_dispatched_total", "path", "reason")], stacked=True
                    ),
                    Graph("First token by", "reqps", [rate("pd_proxy_first_tokens_total", "by")]),
                    Graph(
                        "Legs that failed",
                        "reqps",
                        [rate("pd_proxy_leg_failures_total", "role", "cause")],
                        "A request whose first try fails before its first token gets a second one",
                    ),
                ],
            ),
        ],
    )

"""The KV store that instances share: what it gives, what asking it costs, what it leaves out, how full it is."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from observability.dashboards.panels import RATE, Graph, Number, dashboard, quantiles, rate

NAMED = "{{role}} {{instance}}"
OPERATION = "vllm:mooncake_store_operation"
HITS = f'sum(rate(pd_proxy_store_prompts_total{{result="hit"}}{RATE}))'
IN_USE = "sum(master_allocated_bytes) / sum(master_total_capacity_bytes)"


def store() -> Dashboard:
    return dashboard(
        "pd-store",
        "KV store",
        "What instances share, empty without a store: docs/store.md",
        [
            (
                "Now",
                [
                    Number(
                        "Prompts found",
                        "percentunit",
                        f"{HITS} / sum(rate(pd_proxy_store_prompts_total{RATE}))",
                        "Of which a producer loaded a part",
                    ),
                    Number("Tokens loaded", "short", f"sum(rate(pd_store_loaded_tokens_total{RATE}))", "A second"),
                    Number("Memory in use", "percentunit", IN_USE, "Of all owners"),
                    Number(
                        "Left alone",
                        "short",
                        "sum(pd_store_breaker_open)",
                        "Breakers of instances that are open after failures in a row",
                    ),
                ],
            ),
            (
                "What it gives",
                [
                    Graph(
                        "Prompts by lookup",
                        "reqps",
                        [rate("pd_store_lookups_total", "result")],
                        "left: not asked, because the store fails. late: no answer within STORE_LOOKUP_TIMEOUT_S",
                        stacked=True,
                    ),
                    Graph("Loads by result", "reqps", [rate("pd_store_loads_total", "result")], stacked=True),
                    Graph("Tokens loaded", "short", [rate("pd_store_loaded_tokens_total", "role", "instance")]),
                ],
            ),
            (
                "What it costs",
                [
                    Graph(
                        "Seconds of calls",
                        "s",
                        quantiles(f"{OPERATION}_time_seconds", by="operation"),
                        "To Mooncake: lookup_exists of a prompt, save_exists and save_put of a save, load_get",
                    ),
                    Graph("Bytes", "Bps", [rate(f"{OPERATION}_bytes_total", "operation")]),
                    Graph("Keys", "ops", [rate(f"{OPERATION}_keys_total", "operation")], "Blocks asked for or moved"),
                ],
            ),
            (
                "What fails",
                [
                    Graph(
                        "Keys that failed",
                        "ops",
                        [rate(f"{OPERATION}_failed_keys_total", "role", "operation")],
                        "A put that is refused because the store is full is one of them",
                    ),
                    Graph(
                        "Saves left out",
                        "ops",
                        [rate("pd_store_saves_left_out_total", "role", "instance")],
                        "Too many blocks wait to be saved, or the store fails",
                    ),
                    Graph(
                        "Left alone",
                        "bool",
                        [("pd_store_breaker_open", f"{NAMED} {{{{breaker}}}}")],
                        "1: after failures in a row; one request every 5 s tries again",
                    ),
                ],
            ),
            (
                "What it holds",
                [
                    Graph(
                        "Memory",
                        "bytes",
                        [
                            ("sum(master_allocated_bytes)", "in use"),
                            ("sum(master_total_capacity_bytes)", "of all owners"),
                        ],
                    ),
                    Graph("Keys held", "short", [("sum(master_key_count)", "keys")]),
                    Graph("Evicted", "ops", [(f"sum(rate(master_evicted_key_count{RATE}))", "keys")]),
                ],
            ),
        ],
    )

"""How the vLLM servers are: queues, cache, preemptions, beside their CPU and memory, and the proxy's."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from observability.dashboards.panels import RATE, Graph, Number, dashboard, quantiles

NAMED = "{{role}} {{instance}}"
OF_MODEL = "{{role}} {{model}}"


def _of_instances(name: str) -> str:
    return f"sum by (role, instance) ({name})"


def _hits(cache: str) -> str:
    hits, queries = (f"rate(vllm:{cache}_{what}_total{RATE})" for what in ("hits", "queries"))
    return f"{_of_instances(hits)} / {_of_instances(queries)}"


# All processes of a server where the connector shows them, else the API server's.
CPU = f"rate(pd_instance_cpu_seconds_total{RATE}) or rate(process_cpu_seconds_total{{job=~'proxy|vllm'}}{RATE})"
MEMORY = "pd_instance_resident_memory_bytes or process_resident_memory_bytes{job=~'proxy|vllm'}"


def instances() -> Dashboard:
    return dashboard(
        "pd-instances",
        "Instances",
        "vLLM's queues, cache and preemptions, beside CPU and memory",
        [
            (
                "Now",
                [
                    Number("Up", "short", 'sum(up{job="vllm"})'),
                    Number("Running", "short", "sum(vllm:num_requests_running)"),
                    Number("Waiting", "short", "sum(vllm:num_requests_waiting)"),
                    Number("Fullest cache", "percentunit", "max(vllm:kv_cache_usage_perc)"),
                ],
            ),
            (
                "Queues",
                [
                    Graph("Running", "short", [(_of_instances("vllm:num_requests_running"), NAMED)]),
                    Graph("Waiting", "short", [(_of_instances("vllm:num_requests_waiting"), NAMED)]),
                    Graph("Time in the queue", "s", quantiles("vllm:request_queue_time_seconds", by="role")),
                    Graph(
                        "Tokens in hand",
                        "short",
                        [("pd_proxy_outstanding_tokens", NAMED)],
                        "As the proxy counts them, by which it chooses; not shown by a proxy of several workers",
                    ),
                    Graph(
                        "In use",
                        "bool",
                        [("pd_proxy_circuit_closed", NAMED)],
                        "0: left alone after failures; not shown by a proxy of several workers",
                    ),
                    Graph(
                        "Tokens of a step",
                        "short",
                        quantiles("vllm:iteration_tokens_total", by="role"),
                        "Prompt tokens and new ones",
                    ),
                ],
            ),
            (
                "Scaling",
                [
                    Graph(
                        "Prompt tokens waiting",
                        "short",
                        [("sum by (role, model) (pd_proxy_prefill_tokens_waiting)", OF_MODEL)],
                        "Sent to instances and not computed yet. docs/scaling.md has the thresholds",
                    ),
                    Graph(
                        "Predicted wait of a prompt",
                        "s",
                        [("max by (role, model) (pd_proxy_prefill_wait_seconds)", OF_MODEL)],
                    ),
                    Graph("Running streams", "short", [("sum by (role, model) (pd_proxy_running_streams)", OF_MODEL)]),
                    Graph(
                        "KV cache in use, mean",
                        "percentunit",
                        [("max by (role, model) (pd_proxy_kv_cache_usage_ratio)", OF_MODEL)],
                    ),
                ],
            ),
            (
                "Cache",
                [
                    Graph("KV cache in use", "percentunit", [("vllm:kv_cache_usage_perc", NAMED)]),
                    Graph(
                        "Preemptions",
                        "ops",
                        [(_of_instances(f"rate(vllm:num_preemptions_total{RATE})"), NAMED)],
                        "Requests that had to make room and begin anew",
                    ),
                    Graph(
                        "Prefix cache hits",
                        "percentunit",
                        [
                            (_hits("prefix_cache"), f"{NAMED} own"),
                            (_hits("external_prefix_cache"), f"{NAMED} transferred"),
                        ],
                        "Part of the prompt tokens asked for",
                    ),
                ],
            ),
            (
                "Machine",
                [
                    Graph("CPU", "short", [(CPU, "{{job}} {{role}} {{instance}}")], "Cores in use"),
                    Graph("Memory", "bytes", [(MEMORY, "{{job}} {{role}} {{instance}}")]),
                    Graph(
                        "Open files",
                        "short",
                        [("process_open_fds{job=~'proxy|vllm'}", "{{job}} {{role}} {{instance}}")],
                    ),
                ],
            ),
        ],
    )

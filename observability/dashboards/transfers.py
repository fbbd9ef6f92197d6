"""How the KV cache moves: bytes and bandwidth, what is early and what is waited for, what fails, what is held."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from observability.dashboards.panels import RATE, Graph, Number, dashboard, quantiles, rate

SENT = f"sum by (transport) (rate(pd_kv_sent_bytes_total{RATE}))"
PIECES = f"sum by (transport) (rate(pd_kv_sent_pieces_total{RATE}))"
EARLY = f"sum by (transport) (rate(pd_kv_early_bytes_total{RATE}))"
WRITING = f"sum by (transport) (rate(pd_kv_write_seconds_total{RATE}))"
RECOMPUTED = f'sum(rate(pd_proxy_transfers_total{{result="recomputed"}}{RATE}))'
HELD_FOR = "(time() - pd_kv_oldest_hold_timestamp_seconds) * (pd_kv_oldest_hold_timestamp_seconds > bool 0)"


def transfers() -> Dashboard:
    return dashboard(
        "pd-transfers",
        "Transfers",
        "KV cache between prefill and decode instances: docs/connector.md, Metrics",
        [
            (
                "Now",
                [
                    Number("Moved", "Bps", f"sum(rate(pd_kv_sent_bytes_total{RATE}))"),
                    Number(
                        "Moved early",
                        "percentunit",
                        f"sum(rate(pd_kv_early_bytes_total{RATE})) / sum(rate(pd_kv_sent_bytes_total{RATE}))",
                        "Before the prefill had ended",
                    ),
                    Number(
                        "Recomputed",
                        "percentunit",
                        f"{RECOMPUTED} / sum(rate(pd_proxy_transfers_total{RATE}))",
                        "Split requests whose cache did not arrive",
                    ),
                    Number("Blocks held", "short", "sum(pd_kv_blocks_held)", "Kept only for transfers"),
                ],
            ),
            (
                "What moves",
                [
                    Graph("Bytes by transport", "Bps", [(SENT, "{{transport}}")], stacked=True),
                    Graph(
                        "Bandwidth of writes",
                        "Bps",
                        [(f"{SENT} / {WRITING}", "{{transport}}")],
                        "Bytes over the time that was spent in writes: what the transport gives. Writes may overlap",
                    ),
                    Graph(
                        "Bandwidth of a share",
                        "Bps",
                        quantiles("pd_kv_transfer_bytes_per_second", by="transport"),
                        "A share is what moves between two ranks. Streaming, its time contains most of the prefill",
                    ),
                    Graph(
                        "Early share",
                        "percentunit",
                        [(f"{EARLY} / {SENT}", "{{transport}}"), *quantiles("pd_kv_early_ratio")],
                        "Of the bytes, and of each share's",
                    ),
                    Graph(
                        "Exposed seconds",
                        "s",
                        quantiles("pd_kv_exposed_seconds", by="transport"),
                        "From the end of the prefill to the last byte: what a client waits for",
                    ),
                    Graph("Transfer seconds", "s", quantiles("pd_kv_transfer_seconds", by="transport")),
                    Graph("Pieces", "ops", [(PIECES, "{{transport}}")], "Contiguous pieces that the bytes went in"),
                    Graph("Bytes per piece", "bytes", [(f"{SENT} / {PIECES}", "{{transport}}")]),
                    Graph(
                        "Tokens",
                        "short",
                        [rate("pd_kv_received_tokens_total", "transport")],
                        "Prompt tokens a second whose KV cache arrived",
                    ),
                ],
            ),
            (
                "What fails",
                [
                    Graph(
                        "Split requests by result", "reqps", [rate("pd_proxy_transfers_total", "result")], stacked=True
                    ),
                    Graph(
                        "Failures by cause", "ops", [rate("pd_kv_failed_shares_total", "role", "cause")], stacked=True
                    ),
                    Graph("Registrations", "ops", [rate("pd_kv_registrations_total", "outcome")]),
                    Graph(
                        "Revocations",
                        "ops",
                        [rate("pd_kv_revocations_total", "instance")],
                        "A consumer's rank takes its memory back from peers that no longer answer",
                    ),
                    Graph(
                        "First tokens",
                        "ops",
                        [rate("pd_kv_first_tokens_total", "by", "cause")],
                        "Whose, and why the consumer's own",
                    ),
                ],
            ),
            (
                "What is held",
                [
                    Graph("Blocks held", "short", [("pd_kv_blocks_held", "{{role}} {{instance}}")]),
                    Graph(
                        "Longest hold",
                        "s",
                        [(HELD_FOR, "{{role}} {{instance}}")],
                        "For how long the oldest of these blocks are held",
                    ),
                    Graph("Free blocks", "short", [("pd_kv_free_blocks", "{{role}} {{instance}}")]),
                ],
            ),
        ],
    )

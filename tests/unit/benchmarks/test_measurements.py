"""Which requests a measurement sends, and which rows it leaves, against scripted servers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.connector.client import Client
from benchmarks.connector.measurements import concurrency, latency, threshold
from benchmarks.connector.run import Run
from tests.unit.benchmarks.conftest import Scripted

MakeRun = Callable[..., Run]


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "run.json").read_text())[table]
    return found


async def test_latency_takes_turns_and_leaves_a_row_for_every_request_after_the_warm_up(
    scripted: Scripted, client: Client, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("latency", "--rounds", "2", "--warm-up", "1")
    await latency.measure(run, client, "latency", "tcp", [scripted.alone, scripted.pair], [32, 64])
    found = rows(tmp_path, "latency")
    turns = [(row["prompt_tokens"], row["route"]) for row in found]
    assert turns == [
        *((32, "single"), (32, "ours"), (32, "ours"), (32, "single")),
        *((64, "single"), (64, "ours"), (64, "ours"), (64, "single")),
    ]
    assert [len(body["prompt"]) for body in scripted.consumer.asked] == [32] * 3 + [64] * 3
    assert found[1]["transfer"]["exposed_seconds"] == 0.002


async def test_no_prompt_is_sent_twice(scripted: Scripted, client: Client, make_run: MakeRun) -> None:
    run = make_run("latency", "--rounds", "3")
    await latency.measure(run, client, "latency", "tcp", [scripted.alone, scripted.pair], [32])
    prompts = [tuple(body["prompt"]) for vllm in (scripted.single, scripted.consumer) for body in vllm.asked]
    assert len(set(prompts)) == len(prompts) == 10


async def test_a_failed_request_is_a_row_and_the_run_goes_on(
    scripted: Scripted, client: Client, make_run: MakeRun, tmp_path: Path
) -> None:
    scripted.single.status = 500
    run = make_run("latency", "--rounds", "1", "--warm-up", "0")
    await latency.measure(run, client, "latency", "tcp", [scripted.alone, scripted.pair], [32])
    single, ours = rows(tmp_path, "latency")
    assert "HTTP 500" in single["failed"]
    assert "failed" not in ours


async def test_users_send_their_requests_at_once(
    scripted: Scripted, client: Client, make_run: MakeRun, tmp_path: Path
) -> None:
    waiting: set[int] = set()

    async def until_all_users_wait() -> None:
        """Answers the first request of each user only once all of them have sent theirs."""
        waiting.add(len(waiting))
        while len(waiting) < 4:
            scripted.single.arrived.clear()
            await scripted.single.arrived.wait()

    scripted.single.before = until_all_users_wait
    load = ("--load-rounds", "1", "--load-prompt-tokens", "16", "--load-output-tokens", "3")
    run = make_run("concurrency", "--users", "4", "--requests-per-user", "2", *load)
    await concurrency.measure(run, client, "tcp", [scripted.alone])
    found = rows(tmp_path, "concurrency")
    assert len(found) == 8
    assert all(len(row["itl_s"]) == 2 for row in found)


async def test_the_threshold_has_both_ways_while_a_stream_runs_on_the_consumer(
    scripted: Scripted, client: Client, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("threshold", "--rounds", "2", "--warm-up", "0")
    await threshold.measure(run, client, "tcp", [scripted.pair])
    found = rows(tmp_path, "threshold")
    assert [row["prompt_tokens"] for row in found] == [length for length in threshold.LENGTHS for _ in range(4)]
    assert [row["route"] for row in found[:4]] == ["ours", "consumer alone", "consumer alone", "ours"]
    assert all(row["longest_gap_s"] > 0 for row in found)
    streams = [body for body in scripted.consumer.asked if body["max_tokens"] == threshold.STREAM_TOKENS]
    assert len(streams) == len(found) + 1

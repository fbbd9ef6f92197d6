"""Whether a pair says what the single server says: prompts, rows, and what the page makes of them."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.connector import page
from benchmarks.connector.client import Client
from benchmarks.connector.measurements import answers
from benchmarks.connector.run import Run
from tests.unit.benchmarks.conftest import ABOUT, Scripted

SAID = list(range(16))


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "run.json").read_text())["answers"]
    return found


async def test_a_prompt_of_each_length_is_asked_of_all_and_of_the_single_server_three_times(
    scripted: Scripted, client: Client, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run("latency", "--prompt-tokens", "1000,9000", "--max-model-len", "4096")
    await answers.compare(run, client, "tcp", [scripted.alone], [scripted.pair])
    found = rows(tmp_path)
    assert [row["prompt_tokens"] for row in found] == [length for length in (500, 1000, 4080) for _ in range(4)]
    assert [(row["route"], row.get("equal")) for row in found[:4]] == [
        ("single", None),
        ("single again", 16),
        ("single beside others", 16),
        ("ours", 16),
    ]
    asked = Counter(tuple(body["prompt"]) for body in scripted.single.asked)
    by_consumer = [tuple(body["prompt"]) for body in scripted.consumer.asked]
    assert [asked.pop(prompt) for prompt in by_consumer] == [3, 3, 3]
    others = [len(prompt) for prompt in asked]  # of a step of 2,048: one fills it, one leaves room for half a prompt
    assert others == [2048, 2048 - 250, 2048, 2048 - 500, 2048, 2048 - 1024]
    assert set(asked.values()) == {1}


async def test_the_requests_beside_are_under_way_and_end_with_the_answer(
    scripted: Scripted, client: Client, make_run: Callable[..., Run]
) -> None:
    asked = scripted.single.asked

    async def the_others_wait() -> None:
        if asked[-1]["max_tokens"] != answers.ANSWER_TOKENS:
            await asyncio.Event().wait()

    scripted.single.before = the_others_wait
    async with asyncio.timeout(10):
        await answers.compare(make_run("concurrency"), client, "tcp", [scripted.alone], [])
    assert [body["max_tokens"] for body in asked] == [16, 16, *[answers.OTHERS_TOKENS] * 2, 16]


async def test_an_answer_beside_a_request_that_failed_is_a_failed_row(
    scripted: Scripted, client: Client, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    async def the_other_one_fails() -> None:
        other = scripted.single.asked[-1]["max_tokens"] != answers.ANSWER_TOKENS
        scripted.single.status = 500 if other else 200

    scripted.single.before = the_other_one_fails
    await answers.compare(make_run("concurrency"), client, "tcp", [scripted.alone], [])
    *_, beside = rows(tmp_path)
    assert beside["route"] == answers.BESIDE
    assert beside["failed"].startswith("a request beside: ")
    assert "HTTP 500" in beside["failed"]


async def test_only_latency_asks_for_long_prompts(
    scripted: Scripted, client: Client, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    await answers.compare(make_run("concurrency"), client, "tcp", [], [scripted.pair])
    [row] = rows(tmp_path)
    assert row["prompt_tokens"] == 500
    assert "equal" not in row  # to nothing


async def test_a_route_that_fails_is_a_row(
    scripted: Scripted, client: Client, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    scripted.consumer.status = 500
    await answers.compare(make_run("concurrency"), client, "tcp", [scripted.alone], [scripted.pair])
    *_, failed = rows(tmp_path)
    assert failed["route"] == "ours"
    assert "HTTP 500" in failed["failed"]


def test_the_page_says_how_many_tokens_are_equal_and_how_many_answers_differ() -> None:
    other = [*SAID[:5], 99, *SAID[6:]]
    found = [
        {"route": "single", "prompt_tokens": 500, "answer": SAID},
        {"route": "single again", "prompt_tokens": 500, "answer": SAID, "equal": 16},
        {"route": "ours", "prompt_tokens": 500, "answer": other, "equal": 5},
        {"route": "single", "prompt_tokens": 4000, "answer": SAID},
        {"route": "single again", "prompt_tokens": 4000, "answer": SAID, "equal": 16},
        {"route": "ours", "prompt_tokens": 4000, "answer": SAID, "equal": 16},
        {"route": "upstream", "prompt_tokens": 4000, "failed": "HTTP 500"},
    ]
    document = {**ABOUT, "ended": "complete", "answers": [{"stage": "tcp", **row} for row in found]}
    text = page.render(document, "run.json")
    assert "| tcp | single again | 16 of 16, 16 of 16 | 500 / 4,000 |" in text
    assert "| tcp | ours | 5 of 16, 16 of 16 | 500 / 4,000 |" in text
    assert "1 different answers to 2 prompts" in text
    assert "- 1 × upstream: HTTP 500" in text

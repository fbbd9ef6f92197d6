"""What the load test says of its requests is what the servers count: tokens, and prefixes that they have seen before.

One user sends one request after the other, so that what a prefix cache holds does not depend on time.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.real_stack import BLOCK_TOKENS, RealStack

SCALE = 0.25
SHARED = 2 * 128  # tokens of two blocks of the trace, scaled
TRACE = [
    {"timestamp": 0, "input_length": 1300, "output_length": 16, "hash_ids": [0, 1, 2]},
    {"timestamp": 0, "input_length": 1500, "output_length": 64, "hash_ids": [0, 1, 3]},
    {"timestamp": 9, "input_length": 1024, "output_length": 16, "hash_ids": [0, 4]},
    {"timestamp": 9, "input_length": 999, "output_length": 16, "hash_ids": [5, 1]},
]


@pytest.fixture
def records(stack: RealStack, tmp_path: Path, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Of a run with the given arguments, by index; another seed for each test, whose texts no cache has seen."""
    run_dir = tmp_path / "run"
    trace = tmp_path / "trace.jsonl"
    trace.write_text("\n".join(map(json.dumps, TRACE)))
    run = stack.make(
        "load",
        ARGS=f"--users 1 --run-time 5m --seed {sum(request.node.name.encode())} --run-dir {run_dir} {request.param}",
        LOADTEST_TRACE_FILE=str(trace),
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    found = [json.loads(line) for line in (run_dir / "requests.jsonl").read_text().splitlines()]
    return sorted(found, key=lambda record: int(record["index"]))


def as_announced(records: list[dict[str, Any]]) -> list[int]:
    """The prompts' lengths."""
    for record in records:
        assert record["prompt_tokens"] == record["wanted_input_tokens"]
        assert record["output_tokens"] == record["wanted_output_tokens"]
    return [record["prompt_tokens"] for record in records]


@pytest.mark.parametrize(
    "records",
    ["--workload random --requests 6 --input-tokens uniform:1-300 --output-tokens uniform:1-20"],
    indirect=True,
    ids=["random"],
)
def test_random_prompts_have_their_length_and_share_nothing(records: list[dict[str, Any]]) -> None:
    lengths = as_announced(records)
    assert len(lengths) == 6
    assert len(set(lengths)) > 3
    assert [record["cached_tokens"] for record in records] == [0] * 6


@pytest.mark.parametrize(
    "records",
    [
        "--workload chat --chat-turns 3 --chat-sessions 2 --requests 6 "
        f"--input-tokens {3 * BLOCK_TOKENS} --output-tokens {BLOCK_TOKENS}"
    ],
    indirect=True,
    ids=["chat"],
)
def test_a_chat_finds_its_last_turn_in_the_prefix_caches(records: list[dict[str, Any]]) -> None:
    first, second, third = (blocks * BLOCK_TOKENS for blocks in (3, 7, 11))
    assert as_announced(records) == [first, first, second, second, third, third]
    assert [record["cached_tokens"] for record in records[2:]] == [first, first, second, second]


@pytest.mark.parametrize("records", [f"--workload trace --trace-length-scale {SCALE}"], indirect=True, ids=["trace"])
def test_equal_blocks_of_a_trace_are_found_in_the_prefix_caches(records: list[dict[str, Any]]) -> None:
    assert as_announced(records) == [325, 375, 256, 250]
    assert [record["wanted_output_tokens"] for record in records] == [4, 16, 4, 4]
    assert [record["cached_tokens"] for record in records] == [0, SHARED, SHARED // 2, 0]

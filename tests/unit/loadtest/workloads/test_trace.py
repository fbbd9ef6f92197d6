import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.workloads import Workload
from stack.configuration.environment import ConfigError
from tests.unit.loadtest.workloads.conftest import Make, of_every_kind
from tests.unit.loadtest.workloads.served import Target

GOOD = {"timestamp": 0, "input_length": 600, "output_length": 3, "hash_ids": [1, 2]}
LINES = [
    {"timestamp": 27_000, "input_length": 1500, "output_length": 20, "hash_ids": [0, 1, 2]},
    {"timestamp": 27_500, "input_length": 1024, "output_length": 1, "hash_ids": [0, 1]},  # ends with a block
    {
        "timestamp": 27_500,
        "input_length": 1100,
        "output_length": 9,
        "hash_ids": [0, 1, 9],
    },  # leaves the first after two
    {"timestamp": 29_000, "input_length": 513, "output_length": 400, "hash_ids": [7, 1]},  # a block of others elsewhere
    {"timestamp": 30_000, "input_length": 1, "output_length": 1, "hash_ids": [0]},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, LINES)


def written(folder: Path, lines: list[Any]) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def shared(target: Target, workload: Workload, one: int, other: int) -> int:
    """With how many equal tokens the two prompts begin."""
    pairs = zip(*(target.tokens(workload.request(index).body) for index in (one, other)), strict=False)
    return next((number for number, (left, right) in enumerate(pairs) if left != right), -1)


@of_every_kind
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.1, 0.037, 0.001, 2.3])
def test_a_prompt_has_exactly_the_tokens_it_says(make: Make, target: Target, file: Path, scale: float) -> None:
    workload = make("trace", trace_file=file, trace_length_scale=scale)
    assert workload.requests == len(LINES)
    shortest = workload.request(4).input_tokens or 0
    for index, line in enumerate(LINES):
        request = workload.request(index)
        assert request.path == "/v1/completions"
        assert request.input_tokens == max(shortest, round(line["input_length"] * scale))  # type: ignore[operator]
        assert len(target.tokens(request.body)) == request.input_tokens
        assert request.output_tokens == request.body["max_tokens"] == max(1, round(line["output_length"] * scale))  # type: ignore[operator]


@of_every_kind
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.1, 0.037, 2.3])
def test_equal_ids_are_equal_text_whatever_the_scale(make: Make, target: Target, file: Path, scale: float) -> None:
    workload = make("trace", trace_file=file, trace_length_scale=scale)
    block = 512 * scale
    # The word after two equal blocks may be the same by chance; these seeds' are not.
    assert shared(target, workload, 0, 2) == round(2 * block)
    assert shared(target, workload, 0, 1) == -1  # the whole of the shorter
    assert shared(target, workload, 0, 3) < 16


@pytest.mark.parametrize(("scale", "times"), [(1.0, [0, 0.5, 0.5, 2, 3]), (0.1, [0, 0.05, 0.05, 0.2, 0.3])])
def test_times_count_from_the_first_request(make: Make, file: Path, scale: float, times: list[float]) -> None:
    assert make("trace", trace_file=file, trace_time_scale=scale).start_times == pytest.approx(times)


def test_lines_are_replayed_in_the_order_of_their_times(make: Make, tmp_path: Path) -> None:
    workload = make("trace", trace_file=written(tmp_path, LINES[::-1]))
    assert [workload.request(index).output_tokens for index in (0, 3, 4)] == [20, 400, 1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Invalid JSON: EOF while parsing an object at line 1 column 1"),
        ([], "Input should be an object"),
        ({"timestamp": 0}, "input_length: Field required"),
        (GOOD | {"timestamp": -1}, "timestamp: Input should be greater than or equal to 0"),
        (GOOD | {"input_length": "600"}, "input_length: Input should be a valid integer"),
        (GOOD | {"output_length": 0}, "output_length: Input should be greater than or equal to 1"),
        (GOOD | {"hash_ids": [1]}, "expected 2 hash_ids, one for every 512 of 600 tokens, found 1"),
        (GOOD | {"hash_ids": [1, 2, 3]}, "expected 2 hash_ids, one for every 512 of 600 tokens, found 3"),
        (GOOD | {"hash_ids": [1, "x"]}, "hash_ids.1: Input should be a valid integer"),
    ],
)
def test_a_bad_line_is_named(make: Make, tmp_path: Path, line: Any, said: str) -> None:
    path = written(tmp_path, [GOOD, "", line, GOOD])
    with pytest.raises(ConfigError) as raised:
        make("trace", trace_file=path)
    assert raised.value.lines == [f"LOADTEST_TRACE_FILE={str(path)!r}, line 3: {said}"]


def test_many_bad_lines_are_not_all_named(make: Make, tmp_path: Path) -> None:
    path = written(tmp_path, ["x"] * 1000)
    with pytest.raises(ConfigError) as raised:
        make("trace", trace_file=path)
    assert len(raised.value.lines) == 6
    assert raised.value.lines[-1] == f"LOADTEST_TRACE_FILE={str(path)!r}: 995 more lines like these"


def test_an_empty_file_is_no_trace(make: Make, tmp_path: Path) -> None:
    path = written(tmp_path, ["", ""])
    with pytest.raises(ConfigError, match="holds no line"):
        make("trace", trace_file=path)


def test_lines_that_the_model_cannot_hold_are_refused_with_a_scale_that_fits(make: Make, tmp_path: Path) -> None:
    long = {"timestamp": 0, "input_length": 5120, "output_length": 2000, "hash_ids": list(range(10))}
    path = written(tmp_path, [GOOD, long])
    with pytest.raises(ConfigError) as raised:
        make("trace", trace_file=path)
    assert raised.value.lines == [
        "LOADTEST_TRACE_LENGTH_SCALE=1: 1 of 2 requests are longer than the 4096 tokens that m holds; "
        "expected at most 0.5751"
    ]
    assert make("trace", trace_file=path, trace_length_scale=0.5751).requests == 2

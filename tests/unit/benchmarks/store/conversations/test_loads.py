"""The plan's order, the requests of each load, and the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.store.conversations.loads import Chats, TracePiece
from benchmarks.store.conversations.options import parse
from benchmarks.store.conversations.plan import AGAIN, OFF, STORE, Plan
from benchmarks.store.conversations.trace_piece import take
from loadtest.figures.record import RequestRecord
from loadtest.workloads.trace import TraceLine

CHATS = Chats(sessions=3, turns=2, input_tokens=100, output_tokens=10, users=2, limit_s=60.0)


def plan(**other: Any) -> Plan:
    given = {"caches": (1 << 20, 2 << 20), "repeats": 2, "seed": 7, "store_bytes": 64, "max_model_len": 9}
    return Plan(**{"load": CHATS, "variables": {}, **given, **other})


def line(at_ms: float, tokens: int, *hash_ids: int) -> TraceLine:
    return TraceLine(timestamp=at_ms, input_length=tokens, output_length=10, hash_ids=list(hash_ids))


def test_repeats_alternate_and_the_control_is_on_the_other_side_of_the_store() -> None:
    forth = [(cache, side) for cache in (1 << 20, 2 << 20) for side in (OFF, STORE, AGAIN)]
    measurements = plan().measurements()
    assert [(one.cache_bytes, one.side) for one in measurements] == [*forth, *reversed(forth)]
    assert [one.seed for one in measurements] == [7] * 6 + [8] * 6
    assert len({one.folder for one in measurements}) == 12


def test_only_the_store_is_what_sides_differ_by() -> None:
    off, store, again = (plan().variables_of(one) for one in plan().measurements()[:3])
    assert off == again
    assert off["STORE_MASTER"] == "", "not somebody else's either"
    assert {name for name in off if off[name] != store[name]} == {"STACK_STORE"}


def test_a_plan_is_known_by_all_that_its_figures_depend_on() -> None:
    others = [plan(caches=(1,)), plan(seed=1), plan(store_bytes=65), plan(variables={"DTYPE": "float32"})]
    others.append(plan(load=Chats(3, 2, 100, 11, 2, 60.0)))
    fingerprints = {one.fingerprint("code") for one in (plan(), *others)} | {plan().fingerprint("other")}
    assert len(fingerprints) == 7
    assert plan().fingerprint("code") in fingerprints


def test_a_chats_later_turns_can_find_the_prompt_before() -> None:
    records = [
        RequestRecord(index=index, outcome="completed", scheduled=0, started=0, ended=1, prompt_tokens=tokens)
        for index, tokens in enumerate((100, 101, 102, 210, 211))
    ]
    assert [CHATS.is_later(record.index) for record in records] == [False, False, False, True, True]
    assert CHATS.found_again(records) == 100 + 101
    assert CHATS.requests == 6


# 0 is what all begin with. Conversations: 1, 3 (which goes on twice), 9.
LINES = [
    line(0, 1500, 0, 1, 2),
    line(1000, 1500, 0, 3, 4),
    line(2000, 2000, 0, 3, 5, 6),
    line(3000, 1000, 0, 9),
    line(4000, 2600, 0, 3, 5, 7, 8, 10),
]


def test_a_piece_has_whole_conversations_of_all_of_the_trace() -> None:
    piece = take(LINES, requests=3, length_scale=1.0, context=3000)
    assert piece.shared == 1
    assert [one.hash_ids[1] for one in piece.lines] == [1, 9], "every second one"
    whole = take(LINES, requests=5, length_scale=1.0, context=3000)
    assert list(whole.lines) == LINES
    assert [whole.is_later(index) for index in range(5)] == [False, False, True, False, True]
    load = TracePiece(whole, "trace", rate=0.5, length_scale=0.5)
    records = [RequestRecord(index=index, outcome="completed", scheduled=0, started=0, ended=1) for index in range(5)]
    assert load.found_again(records) == (1 + 2 + 1 + 3) * 512 // 2


def test_a_trace_takes_the_time_that_its_rate_says(tmp_path: Path) -> None:
    load = TracePiece(take(LINES, 5, 1.0, 3000), "trace", rate=0.5, length_scale=1.0)
    assert load.time_scale == pytest.approx(2.5)  # 4 s of the trace in 10 s
    assert load.seconds == 12.0
    file = load.settings(tmp_path)["LOADTEST_TRACE_FILE"]
    assert [json.loads(text) for text in Path(file).read_text().splitlines()] == [one.model_dump() for one in LINES]


def test_lines_that_the_model_cannot_hold_are_left_out() -> None:
    assert take(LINES, 9, 1.0, 2020).left_out == 1
    assert take(LINES, 9, 0.5, 2020).left_out == 0
    with pytest.raises(ValueError, match="at most 20 tokens"):
        take(LINES, 9, 1.0, 20)


def test_the_defaults_suit_two_cores() -> None:
    options, load = parse([])
    assert isinstance(load, Chats)
    assert load.requests == 125
    # A third of the chats fits into two of the smaller caches, all of them into two of the larger.
    fits = [2 * cache / (load.held_tokens * 45 * 1024) for cache in options.kv_cache_bytes]
    assert fits == pytest.approx([1 / 3, 4 / 3], rel=0.1)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--turns", "20"], "--turns=20: chats grow to 5760 tokens, expected at most --max-model-len=4096"),
        (["--users", "25"], "--users=25: expected fewer than --sessions=25"),
        (["trace"], "--trace: expected a file in Mooncake's format"),
        (["trace", "--trace", "/nowhere"], "--trace='/nowhere': No such file or directory"),
        (["--rate", "0"], "--rate: '0': expected a number above 0"),
        (["both"], "invalid choice: 'both'"),
    ],
)
def test_what_cannot_work_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(words)
    assert exit_.value.code == 2
    assert line in capsys.readouterr().err


def test_a_scale_with_which_nothing_fits_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(LINES[0].model_dump_json() + "\n")
    with pytest.raises(SystemExit):
        parse(["trace", "--trace", str(file), "--length-scale", "8"])
    assert "--length-scale=8: expected a length scale with which a line has at most 4096" in capsys.readouterr().err

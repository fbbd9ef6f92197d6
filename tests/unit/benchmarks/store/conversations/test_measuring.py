"""A comparison from its start to its page, over a scripted stack and a scripted load test: order, resuming, ending."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.processes import Processes
from benchmarks.store.conversations import __main__ as program
from benchmarks.whole_stack import headless, stack_side
from stack.configuration.settings import REPOSITORY
from tests.unit.benchmarks.store.conversations import scripted_stack

MIB = 1 << 20
STACK = "2 processes"
LOAD = "load chat closed 3 2 --users 2 --spawn-rate 2"
TRACE = [
    {"timestamp": 0, "input_length": 1100, "output_length": 20, "hash_ids": [0, 1, 2]},
    {"timestamp": 3000, "input_length": 1100, "output_length": 20, "hash_ids": [0, 3, 4]},
    {"timestamp": 6000, "input_length": 1600, "output_length": 20, "hash_ids": [0, 1, 5, 6]},
    {"timestamp": 9000, "input_length": 1600, "output_length": 20, "hash_ids": [0, 3, 7, 8]},
]


class Comparison:
    """The program with all it starts replaced, in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.results = folder / "results"
        script = folder / "python"
        words = f"PYTHONPATH={REPOSITORY} exec {sys.executable} -S {scripted_stack.__file__}"
        script.write_text(f'#!/bin/sh\n{words} "$@"\n')
        script.chmod(0o755)
        self._script = script
        monkeypatch.setattr(headless, "LOAD_TEST", (str(script), "load-test"))
        monkeypatch.setattr(stack_side, "POLL_S", 0.02)
        monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # the handlers of this process stay
        monkeypatch.setattr(program, "code_fingerprint", lambda *_: "the same code")  # somebody may edit it meanwhile
        for name in ("COMPOSE_FILE", "MAX_MODEL_LEN", "STACK_STORE", "KV_CACHE_BYTES"):
            monkeypatch.delenv(name, raising=False)
        for name in ("PREFILL_REPLICAS", "DECODE_REPLICAS", "STACK_MODE"):
            monkeypatch.setenv(name, "")  # what the program sets is undone
        monkeypatch.setenv("STORE_MASTER", "elsewhere:1")
        monkeypatch.setenv("STACK_ENV_FILE", "/dev/null")
        monkeypatch.setenv("SCRIPTED_LOG", str(folder / "log"))

    def run(self, *words: str) -> tuple[int, list[str]]:
        """Its status, and what it asked for; the first requests of every start are left out."""
        (self.folder / "log").write_text("")
        own = ["--out", str(self.results), "--work", str(self.folder / "w"), "--stack-python", str(self._script)]
        chats = ["--sessions", "3", "--turns", "2", "--users", "2", "--store-bytes", str(64 * MIB)]
        self._monkeypatch.setattr(sys, "argv", ["benchmarks.store.conversations", *chats, *own, *words])
        status = program.main()
        asked = (self.folder / "log").read_text().splitlines()
        return status, [line for line in asked if not line.startswith("first ")]

    def page(self) -> str:
        (file,) = self.results.glob("*.md")
        return file.read_text()

    def document(self) -> dict[str, Any]:
        (file,) = self.results.glob("*.json")
        found: dict[str, Any] = json.loads(file.read_text())
        return found


@pytest.fixture
def comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    return Comparison(tmp_path, monkeypatch)


def side(store: str, cache: int, seed: int = 0, load: str = LOAD, requests: int = 6) -> list[str]:
    return [f"up {store} {cache} {64 * MIB} {STACK}", f"{load} seed {seed} {requests}", "down"]


ONE_CACHE = ("--kv-cache-bytes", str(16 * MIB))
SIDES = [*side("false", 16 * MIB), *side("true", 16 * MIB), *side("false", 16 * MIB)]


@pytest.mark.timeout(60)
def test_every_side_has_a_stack_of_its_own_and_the_same_requests(comparison: Comparison) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    status, asked = comparison.run("chat", *ONE_CACHE)
    assert (status, asked) == (0, SIDES)
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before
    document = comparison.document()
    assert document["ended"] == "complete"
    rows = {(row["side"], row["requests"]): row for row in document["requests"]}
    later = [rows[name, "later turns"]["ttft_p50_s"] for name in ("no store", "store", "no store again")]
    assert later == [1.0, 0.4, 1.0]
    assert rows["store", "all"]["store_tokens"] == 5 * 70
    assert rows["store", "all"]["outcomes"] == {"completed": 5, "failed": 1, "cut_off": 0, "cancelled": 0}
    by_side = {row["side"]: row for row in document["prompt_tokens"]}
    # What the first requests have left in the counters is not among them.
    assert [by_side["store"][f"prefill_{name}"] for name in ("local", "external", "computed")] == [120, 420, 60]
    assert by_side["store"]["proxy_loaded_tokens"] == 420
    assert by_side["no store"]["decode_computed"] == 6
    assert [row["evicted_keys"] for row in document["store"]] == [2]
    assert document["versions"]["vLLM"] == "0.32.0"
    assert document["conditions"]["instances"].startswith("2 prefill, 2 decode")


@pytest.mark.timeout(60)
def test_what_was_measured_before_a_failure_is_kept(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCRIPTED_FAILS", "true")
    status, asked = comparison.run(*ONE_CACHE)
    assert status == 1
    assert asked == [*SIDES[:4], "down"]
    assert "the load test ended with status 2 at store, caches of 16 MiB" in capsys.readouterr().err
    assert "ended: the load test ended with status 2" in comparison.page()
    assert "not measured" in comparison.page()
    monkeypatch.delenv("SCRIPTED_FAILS")
    assert comparison.run(*ONE_CACHE) == (0, SIDES[3:])
    assert "1 of 3 were measured before" in capsys.readouterr().out
    assert "ended: complete" in comparison.page()  # in the same file
    assert comparison.run(*ONE_CACHE) == (0, [])


@pytest.mark.timeout(60)
def test_a_side_of_which_an_instance_began_anew_is_measured_again(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCRIPTED_ANEW", "false")
    status, asked = comparison.run(*ONE_CACHE)
    assert (status, asked) == (1, [*SIDES[:2], "anew", "down"])
    assert "prefill-0: was started anew during the measurement" in capsys.readouterr().err
    assert not list(comparison.results.glob("*")), "nothing was measured"


@pytest.mark.timeout(60)
def test_an_interrupted_side_is_ended_and_measured_again(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits_for, interrupted = Processes.wait, iter([False, False, False, True])  # the second side's load

    def wait(processes: Processes, name: str, limit_s: float) -> int:
        status = waits_for(processes, name, limit_s)
        if name == "loadtest" and next(interrupted, False):
            raise SystemExit(143)  # what the handler of SIGTERM does
        return status

    monkeypatch.setattr(Processes, "wait", wait)
    with pytest.raises(SystemExit):
        comparison.run(*ONE_CACHE)
    assert (comparison.folder / "log").read_text().splitlines()[-1] == "down"
    assert "ended: interrupted; the same command goes on" in comparison.page()
    assert comparison.run(*ONE_CACHE, "--time-limit", "1") == (0, [])
    assert "the time limit of 1 s leaves no room for the next side; the same command goes on" in comparison.page()


@pytest.mark.timeout(60)
def test_without_time_for_a_side_none_is_begun(comparison: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    assert comparison.run("--time-limit", "100") == (0, [])
    assert "leaves no room for the next side; the same command goes on" in capsys.readouterr().err


@pytest.mark.timeout(60)
def test_a_side_that_was_cut_short_says_so(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_SHORT", "false")
    assert comparison.run(*ONE_CACHE)[0] == 0
    page = comparison.page()
    assert "- no store, caches of 16 MiB, run 1: only 3 of 6 requests were made in time" in page
    assert "TTFT P50 of later turns at most 0.5 times: not measured" in page  # no later turn was made


@pytest.mark.timeout(60)
def test_a_piece_of_a_trace_is_sent_at_its_own_times(comparison: Comparison) -> None:
    trace = comparison.folder / "conversation_trace.jsonl"
    trace.write_text("".join(json.dumps(line) + "\n" for line in TRACE))
    words = ("trace", "--trace", str(trace), "--length-scale", "0.5", *ONE_CACHE)
    status, asked = comparison.run(*words)
    assert status == 0
    assert asked[1] == "load trace trace 0.5 seed 0 4"
    document = comparison.document()
    assert [row["wanted"] for row in document["requests"][:3]] == [4, 2, 2]
    # Two ids of 512 tokens are known of each of the two that go on, one of the second; at half their lengths.
    assert document["requests"][0]["found_again"] == (1 + 2 + 2) * 256
    assert "## The target" not in comparison.page()
    assert "4 requests of whole conversations of conversation_trace.jsonl, lengths times 0.5" in comparison.page()


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("STACK_MODE", "docker", "STACK_MODE=docker: instances in containers cannot be asked; expected processes"),
        (
            "COMPOSE_FILE",
            "compose.yaml:compose.store.yaml",
            "expected no compose.store.yaml: sides differ by the store",
        ),
    ],
)
def test_a_stack_that_cannot_be_compared_is_one_line(
    comparison: Comparison,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    line: str,
) -> None:
    monkeypatch.setenv(name, value)
    assert comparison.run() == (1, [])
    assert line in capsys.readouterr().err

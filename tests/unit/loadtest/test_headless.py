"""`python -m loadtest --headless` as a process of its own, against a scripted server."""

import re
import socket

import pytest

from tests.unit.loadtest.locust_process import headless
from tests.unit.loadtest.scripted_server import (
    BreakConnection,
    Script,
    ScriptedServer,
    Step,
    after,
    completion,
    error_answer,
    in_turn,
    sse,
    text,
)

ROUNDING_MS = 1e-6  # of sums of floating point numbers


def test_table_shows_the_scripted_delays() -> None:
    """No upper bounds, which a busy machine would break; a client that waits for 1,024 bytes has no ITL to add up."""
    first, gap, tokens = 0.5, 0.5, 5
    with ScriptedServer(lambda _: completion(tokens, after(first), after(gap))).running() as server:
        run = headless(server.url, "-u", "3", "-r", "3", "-t", "4s", LOADTEST_INPUT_TOKENS="12", LOADTEST_SEED="7")

    assert run.exit_code == 0, run.log
    answered = run.rows["/v1/completions"]["num_requests"]
    assert answered == len(server.bodies) > 0
    assert {name: row["num_requests"] for name, row in run.rows.items()} == {
        "/v1/completions": answered,
        "TTFT": answered,
        "TPOT": answered,
        "ITL": (tokens - 1) * answered,
        "start delay": answered,
    }
    assert run.least("TTFT") >= 1000 * first
    assert run.least("/v1/completions") >= 1000 * (first + gap * (tokens - 1))
    assert run.total("TTFT") < 0.8 * run.total("/v1/completions")
    whole = run.total("/v1/completions")
    assert run.total("TTFT") + run.total("ITL") <= whole + ROUNDING_MS
    assert run.total("TPOT") * (tokens - 1) == pytest.approx(run.total("ITL"))


def test_every_kind_of_failure_is_named_and_fails_the_run() -> None:
    answers = [
        completion(2),
        error_answer(503, "no decode instance"),
        Script([Step(text("a")), Step(sse({"error": {"message": "decode is gone"}})), Step(sse("[DONE]"))]),
        Script([Step(text("a"))]),
        Script([Step(text("a")), Step(BreakConnection())]),
    ]
    with ScriptedServer(in_turn(answers)).running() as server:
        run = headless(server.url, "-u", "5", "-r", "5", "-t", "5s")

    assert run.exit_code == 1, run.log
    assert "POST /v1/completions: HttpError('503: no decode instance')" in run.log
    assert "POST /v1/completions: ErrorInStream('decode is gone')" in run.log
    assert "POST /v1/completions: StreamCutOff('ended before a finish_reason')" in run.log
    assert re.search(r"POST /v1/completions: StreamCutOff\('connection broke: ", run.log)
    row = run.rows["/v1/completions"]
    assert row["num_failures"] == row["num_requests"] - run.rows["TTFT"]["num_requests"] >= 4


def test_workers_share_the_load_and_repeat_no_prompt() -> None:
    with ScriptedServer(lambda _: completion(2, first=after(0.2))).running() as server:
        run = headless(server.url, "-u", "4", "-r", "4", "-t", "4s", "--processes", "2")
    assert run.exit_code == 0, run.log
    assert "no request was answered" not in run.log
    prompts = [body["prompt"] for body in server.bodies]
    assert len(prompts) == len(set(prompts)) == run.rows["TTFT"]["num_requests"] == run.rows["ITL"]["num_requests"]


def test_fewer_users_than_workers_still_make_every_request() -> None:
    with ScriptedServer(lambda _: completion(2)).running() as server:
        run = headless(server.url, "-u", "1", "--requests", "4", LOADTEST_WORKERS="2")
    assert run.exit_code == 0, run.log
    assert [record.index for record in run.records] == [0, 1, 2, 3]


def test_nobody_listens() -> None:
    with socket.socket() as bound_but_not_listening:
        bound_but_not_listening.bind(("127.0.0.1", 0))
        run = headless(f"http://127.0.0.1:{bound_but_not_listening.getsockname()[1]}", "-t", "4s")
    assert run.exit_code == 1, run.log
    assert "ConnectionFailed('Connection refused')" in run.log


def test_run_without_an_answer_is_no_success() -> None:
    with ScriptedServer(lambda _: completion(1, first=after(600))).running() as server:
        run = headless(server.url, "-t", "1s", LOADTEST_DRAIN_S="0")
    assert run.exit_code == 1, run.log
    assert "no request was answered during the test" in run.log


def test_a_warm_up_as_long_as_the_test_is_named() -> None:
    with ScriptedServer(lambda _: completion(1)).running() as server:
        run = headless(server.url, "-t", "2s", "--warmup", "2")
    assert run.exit_code == 1, run.log
    assert "LOADTEST_WARMUP_S=2: expected less than the test's 2 s" in run.log
    assert not server.bodies


def test_open_streams_are_waited_for() -> None:
    with ScriptedServer(lambda _: completion(1, first=after(5))).running() as server:
        run = headless(server.url, "-t", "3s")
    assert run.exit_code == 0, run.log
    assert run.rows["TTFT"]["num_requests"] == len(server.bodies) == 1


@pytest.mark.parametrize(
    ("options", "variables", "line"),
    [
        (("--host", "proxy:8000"), {}, "LOADTEST_TARGET='proxy:8000': URL scheme should be 'http' or 'https'"),
        (("--output-tokens", "0"), {}, "LOADTEST_OUTPUT_TOKENS='0': expected at least 1 token"),
        (
            (),
            {"LOADTEST_WORKLOAD": "sharegpt"},
            "LOADTEST_WORKLOAD='sharegpt': Input should be 'curl', 'random', 'chat', 'trace' or 'prompts'",
        ),
    ],
)
def test_bad_option_is_one_line(options: tuple[str, ...], variables: dict[str, str], line: str) -> None:
    run = headless("http://127.0.0.1:8000", "-t", "1s", *options, **variables)
    assert run.exit_code == 2
    assert line in run.log
    assert "Traceback" not in run.log

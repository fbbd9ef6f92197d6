"""A killed instance: what a client sees (docs/proxy.md), that it comes back, and that the other lives on.

It comes back after minutes, so a decode and a prefill instance are killed side by side, each of a stack of its own.
"""

import contextlib
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.compose.project import Project
from tests.compose.test_stack import instances
from tests.gpu_host.stacks import (
    ANSWER_LIMIT_S,
    COUNTING,
    ON_ONE_GPU,
    OVER_TCP,
    Stacks,
    complete,
    completion,
    wait_for_roles,
)

LONG_ANSWER = 2900  # tokens: seconds on any GPU

pytestmark = pytest.mark.timeout(3000)


def state(project: Project, name: str) -> dict[str, Any]:
    found: dict[str, Any] = project.inspect(name)[0]["State"]
    return found


def kill(project: Project, name: str) -> None:
    """Every process of the container at once, as for want of memory; after `docker kill` nothing is restarted."""
    (container,) = project.container_ids(name)
    for process in project.docker("top", container, "-eo", "pid").split()[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


@contextlib.contextmanager
def long_answer(project: Project) -> Iterator[list[str]]:
    """A stream of a prompt that was split, which runs within the context; yields the events that have come so far."""
    events: list[str] = []
    begun = threading.Event()
    request = completion(project, f"{time.time()} {COUNTING}", max_tokens=LONG_ANSWER, ignore_eos=True, stream=True)

    def read() -> None:
        with urllib.request.urlopen(request, timeout=ANSWER_LIMIT_S) as answer:
            assert answer.headers["X-PD-Path"] == "disaggregated"
            for line in answer:
                if line.startswith(b"data: "):
                    events.append(line.decode().removeprefix("data: ").strip())
                    begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(ANSWER_LIMIT_S)
    yield events
    reader.join(ANSWER_LIMIT_S)
    assert not reader.is_alive()


def gone_and_back(project: Project, name: str, before: list[dict[str, Any]]) -> None:
    """Waits until the instance of this role is a new one, and checks that prompts are split as before."""
    began = time.monotonic()
    wait_for_roles(project, ["decode", "prefill"], {each["instance_id"] for each in before if each["role"] == name})
    print(f"{name} was back after {time.monotonic() - began:.0f} s")
    again = complete(project, f"{time.time()} {COUNTING}", max_tokens=8)
    assert (again.status, again.headers["X-PD-Path"]) == (200, "disaggregated")
    assert project.inspect(name)[0]["RestartCount"] == 1


def killed_decode(project: Project) -> None:
    before, prefill = instances(project), state(project, "prefill")
    with long_answer(project) as events:
        kill(project, "decode")
    assert "error" in json.loads(events[-1])
    assert "[DONE]" not in events
    refused = complete(project, f"{time.time()} {COUNTING}", max_tokens=8)
    assert refused.status in (502, 503)  # until its lease ends, and then
    gone_and_back(project, "decode", before)
    assert state(project, "prefill")["StartedAt"] == prefill["StartedAt"]


def killed_prefill(project: Project) -> None:
    before, decode = instances(project), state(project, "decode")
    with long_answer(project) as events:
        kill(project, "prefill")
    assert events[-1] == "[DONE]"
    refused = complete(project, f"{time.time()} {COUNTING}", max_tokens=8)
    assert refused.status in (502, 503)
    gone_and_back(project, "prefill", before)
    assert state(project, "decode")["StartedAt"] == decode["StartedAt"]


@pytest.fixture(scope="module")
def kills(stacks: Stacks) -> Iterator[dict[str, Future[None]]]:
    with ThreadPoolExecutor(2) as side_by_side:
        yield {
            "decode": side_by_side.submit(killed_decode, stacks[OVER_TCP]),
            "prefill": side_by_side.submit(killed_prefill, stacks[ON_ONE_GPU]),
        }


def test_a_killed_decode_container_is_an_error_event_then_a_refusal_then_back(kills: dict[str, Future[None]]) -> None:
    kills["decode"].result()


def test_a_killed_prefill_container_ends_no_answer_that_runs_and_is_back(kills: dict[str, Future[None]]) -> None:
    kills["prefill"].result()


def test_an_orderly_restart_of_prefill_leaves_decode_running(project: Project) -> None:
    before, decode = instances(project), state(project, "decode")
    with long_answer(project) as events:
        project.compose("restart", "prefill")
    assert events[-1] == "[DONE]"
    wait_for_roles(
        project, ["decode", "prefill"], {each["instance_id"] for each in before if each["role"] == "prefill"}
    )
    assert complete(project, f"{time.time()} {COUNTING}", max_tokens=8).headers["X-PD-Path"] == "disaggregated"
    assert state(project, "decode")["StartedAt"] == decode["StartedAt"]

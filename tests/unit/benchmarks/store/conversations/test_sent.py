"""What the load test really sends of a load, against a scripted server."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.processes import Processes
from benchmarks.store.conversations.loads import Chats, Load, TracePiece
from benchmarks.store.conversations.trace_piece import take
from benchmarks.whole_stack import headless
from benchmarks.whole_stack.stack_side import Target
from loadtest.runs.run_folder import Run
from loadtest.workloads.trace import TraceLine
from tests.unit.loadtest.scripted_server import ScriptedServer, completion

CHATS = Chats(sessions=3, turns=2, input_tokens=20, output_tokens=5, users=2, limit_s=30.0)
TRACE = [TraceLine(timestamp=at, input_length=600, output_length=3, hash_ids=[0, at]) for at in (1000, 2000, 3000)]


def send(load: Load, server: ScriptedServer, folder: Path) -> Run:
    folder.mkdir()
    headless.run(
        load.name,
        load.settings(folder),
        folder,
        target=Target(server.url, 1),
        seconds=load.seconds,
        seed=3,
        environment={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        processes=Processes(folder / "logs"),
        options=load.options,
    )
    return Run.read(folder)


@pytest.mark.timeout(90)
def test_chats_end_when_all_their_turns_are_answered(tmp_path: Path) -> None:
    with ScriptedServer(lambda _: completion(2)).running() as server:
        run = send(CHATS, server, tmp_path / "run")
        bodies = [body for body in server.bodies if "messages" in body]

    assert run.summary is not None
    assert run.summary.outcomes["completed"] == CHATS.requests == len(bodies)
    assert run.manifest.load_s is not None
    assert run.manifest.load_s < CHATS.limit_s
    turns = sorted(len(body["messages"]) for body in bodies)
    assert turns == [1, 1, 1, 3, 3, 3]
    begun = {body["messages"][0]["content"] for body in bodies}
    assert len(begun) == CHATS.sessions


@pytest.mark.timeout(90)
def test_a_trace_is_sent_whole(tmp_path: Path) -> None:
    load = TracePiece(take(TRACE, 3, 0.1, 1000), "trace", rate=3.0, length_scale=0.1)
    with ScriptedServer(lambda _: completion(2)).running() as server:
        run = send(load, server, tmp_path / "run")
        prompts = [body["prompt"] for body in server.bodies if body.get("stream")]

    assert run.summary is not None
    assert run.summary.requests == len(prompts) == 3
    first, second, _ = (prompt.split() for prompt in prompts)
    assert len(first) == 60
    assert first[:50] == second[:50], "the block that they share"
    assert first[51:] != second[51:]

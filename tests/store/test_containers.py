"""compose.store.yaml with two owners: a producer loads what another has computed; both parts die beside a stream."""

import itertools
import json
import logging
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from stack.configuration.settings import EMBEDDED_MODEL
from tests.compose.project import Project
from tests.real_stack import answers, metrics, wait_until
from tests.store.servers import whole_blocks

log = logging.getLogger(__name__)

ANSWER_LIMIT_S = 120
START_LIMIT_S = 300
BACK_LIMIT_S = 60.0
GAP_LIMIT_S = 4.0
OWNER_BYTES = 256 << 20
FIRST_LETTERS = "abcdefgh"

pytestmark = pytest.mark.timeout(3000)  # the first test waits for the images


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    # A lookup in time says nothing of a machine on which everything runs at once.
    variables = {"STORE_BYTES": str(OWNER_BYTES), "STORE_LOOKUP_TIMEOUT_S": "1"}
    project = Project(("compose.yaml", "compose.store.yaml"), variables)
    try:
        project.up("--scale", "store=2", "--scale", "prefill=2")
        yield project
    finally:
        print(project.compose("logs", "--no-color", "--tail", "100"))
        project.compose("down", "--volumes", "--remove-orphans")
    assert project.remains() == []


@dataclass(frozen=True)
class Answer:
    text: str
    prompt_tokens: int
    producer: str
    store_tokens: int


def ask(project: Project, prompt: str) -> Answer:
    body = {"model": EMBEDDED_MODEL, "prompt": prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    with urllib.request.urlopen(request(project, body), timeout=ANSWER_LIMIT_S) as answer:
        found, headers = json.load(answer), answer.headers
    (choice,) = found["choices"]
    tokens = found["usage"]["prompt_tokens"]
    return Answer(choice["text"], tokens, headers["x-pd-producer"], int(headers["x-pd-store-tokens"]))


def request(project: Project, body: dict[str, Any]) -> urllib.request.Request:
    return urllib.request.Request(
        project.proxy_url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )


def counting(letter: str) -> str:
    """A prompt of some 1,100 tokens, with two letters 1,400, that no other letter has a block of."""
    return " ".join(f"{letter}{number}" for number in range(1, 301))


def kill(project: Project, container: str, program: str) -> None:
    """From inside: one that the engine is told to kill it does not start again."""
    find = f'for p in /proc/[0-9]*; do case "$(cat $p/comm)" in {program}) kill -9 "${{p#/proc/}}";; esac; done'
    project.docker("exec", container, "sh", "-c", find)


def wait_for_memory(project: Project) -> None:
    """Until the master knows of both owners."""
    code = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:50052/metrics').read().decode())"

    def all_there() -> bool:
        found = project.compose("exec", "-T", "store-master", "sh", "-c", f'python -c "{code}" || true')
        return f"master_total_capacity_bytes {2 * OWNER_BYTES}" in found.splitlines()

    wait_until(all_there, BACK_LIMIT_S, "the master knows of both owners")


@dataclass
class Stream:
    """Answers of the decode instance to a short prompt, again and again."""

    project: Project
    at: list[float] = field(default_factory=list)
    failure: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            while not self.ended.is_set():
                self._read()
        except Exception as error:  # noqa: BLE001  the test tells it
            self.failure = repr(error)

    def _read(self) -> None:
        body = {"model": EMBEDDED_MODEL, "prompt": "One, two,", "max_tokens": 600, "ignore_eos": True, "stream": True}
        with urllib.request.urlopen(request(self.project, body), timeout=ANSWER_LIMIT_S) as lines:
            for line in lines:
                if line.startswith(b"data: {"):
                    assert "error" not in json.loads(line.removeprefix(b"data: ")), line
                    self.at.append(time.monotonic())
                if self.ended.is_set():
                    return

    def longest_gap(self, since: float) -> float:
        times = [since, *(at for at in self.at if at > since), time.monotonic()]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


@pytest.fixture
def stream(project: Project) -> Iterator[Stream]:
    started = Stream(project)
    thread = threading.Thread(target=started.run)
    thread.start()
    try:
        wait_until(lambda: bool(started.at) or bool(started.failure), ANSWER_LIMIT_S, "the stream has begun")
        yield started
    finally:
        started.ended.set()
        thread.join(ANSWER_LIMIT_S)
    assert not started.failure


def test_store_and_owners_are_locked_in_and_healthy(project: Project) -> None:
    inside = f"{project.name}_inside"
    containers = project.inspect("store-master", "store")
    assert len(containers) == 3
    for container in containers:
        host = container["HostConfig"]
        assert container["State"]["Health"]["Status"] == "healthy"
        assert container["Config"]["User"] == "10001:10001"
        assert (host["CapDrop"], host["ReadonlyRootfs"], host["Privileged"]) == (["ALL"], True, False)
        assert list(container["NetworkSettings"]["Networks"]) == [inside]
        assert not host["PortBindings"]
        assert {mount["Destination"] for mount in container["Mounts"]} <= {"/disk"}
    wait_for_memory(project)


def test_another_producer_loads_what_one_has_computed(project: Project) -> None:
    """The consumer starts anew, as it would compute nothing of a prompt that it has."""
    computed = ask(project, counting("a"))
    assert computed.store_tokens == 0

    (address,) = (part for part in computed.producer.split("-") if "." in part)
    (gone,) = (each["Id"] for each in project.inspect("prefill") if address in json.dumps(each["NetworkSettings"]))
    time.sleep(2)  # what it has computed is saved
    project.docker("stop", "--time", "1", gone)
    project.compose("restart", "--timeout", "1", "decode")
    wait_until(lambda: answers(project.proxy_url + "/ready"), START_LIMIT_S, "another pair is there")
    loaded = ask(project, counting("a"))

    assert loaded.text == computed.text
    assert loaded.producer != computed.producer
    assert loaded.store_tokens == whole_blocks(computed.prompt_tokens)
    assert metrics(project.proxy_url)["pd_proxy_store_tokens_total"] == loaded.store_tokens
    project.docker("start", gone)


@pytest.mark.parametrize("part", ["owner", "master"])
def test_a_part_dies_and_comes_back_beside_a_stream(project: Project, stream: Stream, part: str) -> None:
    service, program = ("store", "mooncake_client") if part == "owner" else ("store-master", "mooncake_master")
    (container, *_) = project.container_ids(service)
    starts = restarts(project, container)
    asked = [counting(f"{part[0]}{letter}") for letter in FIRST_LETTERS]
    before = seconds_of_an_answer(project, counting(f"{part[0]}z"))
    began = time.monotonic()

    kill(project, container, program)
    took = [seconds_of_an_answer(project, prompt) for prompt in asked]

    gap = stream.longest_gap(began)
    log.warning("%s killed: gap %.2f s, answers within %.1f s, one before %.1f s", part, gap, max(took), before)
    assert gap < GAP_LIMIT_S
    assert not stream.failure
    assert restarts(project, container) == starts + 1
    wait_for_memory(project)


def seconds_of_an_answer(project: Project, prompt: str) -> float:
    since = time.monotonic()
    assert ask(project, prompt).text
    return time.monotonic() - since


def restarts(project: Project, container: str) -> int:
    return int(json.loads(project.docker("inspect", container))[0]["RestartCount"])

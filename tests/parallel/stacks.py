"""Stacks of tiny models, as a user starts them, for what engines and stages they have; and requests to them.

A server of n engines is 2n + 2 processes, each of which imports vLLM: stacks take minutes to start.
"""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil

from stack.instances.record import PREFIX, Engine, Instance
from tests import etcd_http, tiny_models
from tests.integration.answers import greedy
from tests.integration.proxy.bad_day_stack import HttpAnswer, Proxy
from tests.real_stack import START_LIMIT_S, RealStack, answers, wait_until
from tests.tiny_models import END_OF_TEXT
from tests.tiny_servers.instances import ANSWER_TOKENS, NAME, Tokens

STACK_KEY = "0123456789abcdef0123456789abcdef"
SEEN_LIMIT_S = 60


class TinyStack(RealStack):
    """`make up` with a Llama of a million weights, or with another model that a test names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        decode, control = int(self.variables["DECODE_PORT"]) + 20, int(self.variables["CONTROL_PORT"]) + 40
        self.decode_url = f"http://127.0.0.1:{decode}"
        self.variables |= {
            "STACK_SERVICES": "etcd,prefill,decode,proxy",
            "STACK_KEY": STACK_KEY,
            "SERVED_MODEL_NAME": NAME,
            # Replicas listen on the ports behind the first's.
            "DECODE_PORT": str(decode),
            "CONTROL_PORT": str(control),
            "KV_CACHE_BYTES": str(64 << 20),
            "VLLM_EXTRA_ARGS": "",
            "TRANSFER_CHECKSUM": "true",
            "SHUTDOWN_GRACE_S": "120",
        }

    def with_model(self, model: Path | None = None) -> Path:
        """Serves that one, or writes its own."""
        model = model or tiny_models.grouped_query(2).write(self.folder / "models")
        self.variables["MODEL"] = str(model)
        return model

    def records(self) -> list[Instance]:
        """Of its servers in etcd, by role and address."""
        values = etcd_http.under(self.etcd_url, PREFIX).values()
        return sorted((Instance.model_validate_json(value) for value in values), key=lambda each: (each.role, each.url))

    def record(self, url: str) -> Instance:
        (found,) = (each for each in self.records() if each.url == url)
        return found

    def wait_for(self, servers: int) -> list[Instance]:
        """Until so many are registered: the stack is ready with the first pair."""
        wait_until(lambda: len(self.records()) == servers, START_LIMIT_S, f"{servers} servers are registered")
        return self.records()

    def launcher(self, name: str) -> psutil.Process:
        """supervisord's name: `decode-1`."""
        (pid,) = (process.pid for process in self.supervisor.processes() if process.name == name)
        return psutil.Process(pid)

    def logged_requests(self) -> list[dict[str, Any]]:
        lines = (self.folder / "logs" / "proxy-0.log").read_text().splitlines()
        return [line for line in map(_parsed, lines) if line.get("event") == "request"]


def _parsed(line: str) -> dict[str, Any]:
    try:
        return dict(orjson.loads(line))
    except orjson.JSONDecodeError:  # what a program prints before it logs
        return {}


@contextmanager
def running_together(first: RealStack, second: RealStack) -> Iterator[None]:
    """Servers that wait for each other's ranks at their start. The first one has the etcd."""
    with ThreadPoolExecutor() as threads:
        up = [threads.submit(first.make, "up")]
        try:
            wait_until(lambda: answers(first.etcd_url + "/health"), START_LIMIT_S, "etcd")
            up.append(threads.submit(second.make, "up"))
            for stack, started in zip((first, second), up, strict=True):
                result = started.result()
                assert result.returncode == 0, f"{result.stdout}\n{result.stderr}\n{stack.logs()}"
            yield
        finally:
            for down in threads.map(lambda stack: stack.make("down"), (second, first)):
                assert down.returncode == 0, f"{down.stdout}\n{down.stderr}"


def names_of(records: Sequence[Instance]) -> list[str]:
    """Of what requests are sent to: engines, or servers of one."""
    return [each.instance_id for record in records for each in record.by_engine()]


def listening(process: psutil.Process) -> dict[int, psutil.Process]:
    """By port, the processes of that family that listen there."""
    return {
        connection.laddr.port: each
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def control_ports(engine: Engine | Instance) -> list[int]:
    """Of its ranks."""
    return [int(address.rpartition(":")[2]) for address in engine.kv_transfer["control"]]


def prompts(name: str, *lengths: int) -> list[Tokens]:
    """That nobody has cached."""
    numbers = random.Random(name)
    return [[numbers.randrange(END_OF_TEXT) for _ in range(length)] for length in lengths]


def completion(prompt: Tokens, **more: Any) -> dict[str, Any]:
    body = {"model": NAME, "prompt": prompt, "temperature": 0, "max_tokens": ANSWER_TOKENS, "ignore_eos": True}
    return body | {"return_token_ids": True} | more


async def transferred(proxy: Proxy, consumer_url: str, asked: Sequence[Tokens]) -> list[HttpAnswer]:
    """Asserts that all requests at once are answered as by that consumer alone, with their cache from a producer."""
    expected = await greedy(consumer_url, asked, len(asked), model=NAME, cache_salt=uuid.uuid4().hex)
    found = await asyncio.gather(*(proxy.post(completion(prompt)) for prompt in asked))
    assert [each.tokens for each in found] == expected
    assert [int(each.headers["X-PD-Kv-Tokens"]) for each in found] == [len(prompt) for prompt in asked]
    assert {each.headers["X-PD-First-Token"] for each in found} == {"producer"}
    return list(found)


async def shown(proxy: Proxy) -> dict[str, dict[str, Any]]:
    """What `/instances` says of each, by name."""
    return {each["instance_id"]: each for each in (await proxy.get("/instances")).body["instances"]}


async def until_shown(proxy: Proxy, condition: Callable[[set[str]], bool]) -> None:
    """Until the names that the proxy knows are as wanted."""
    async with asyncio.timeout(SEEN_LIMIT_S):
        while not condition(set(await shown(proxy))):  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.05)


def pairs(found: Sequence[HttpAnswer]) -> Counter[tuple[str, str]]:
    """Of producer and consumer, as headers name them."""
    return Counter((each.headers["X-PD-Producer"], each.headers["X-PD-Consumer"]) for each in found)

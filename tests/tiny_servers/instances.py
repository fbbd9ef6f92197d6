"""vLLM servers of tiny models, side by side, and both legs of requests to them.

Every server has a loopback address of its own, so that all of them listen on the stack's usual ports.
"""

import asyncio
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import aiohttp
import psutil

from stack.configuration.settings import REPOSITORY
from stack.instances.record import Role
from stack.instances.settings import LauncherSettings
from tests.real_stack import START_LIMIT_S, answers, metrics, post, wait_until
from tests.tiny_servers import forking_vllm
from tests.tiny_servers.forking_vllm import Order

NAME = "tiny"  # the model's, to clients
ANSWER_TOKENS = 16
BLOCK_TOKENS = 32
CHUNK_TOKENS = 512
MAX_MODEL_LEN = 3200
KV_CACHE_BYTES = 64 << 20  # of each rank
TIMEOUT = aiohttp.ClientTimeout(total=300)
STOP_LIMIT_S = 60
PORTS: dict[Role, int] = {"prefill": 8100, "decode": 8200, "aggregated": 8300}
LAUNCHER_ROLES: dict[Role, str] = {"prefill": "producer", "decode": "consumer", "aggregated": "aggregated"}
CONTROL_PORT = 13000
STACK_KEY = "0123456789abcdef"
FP8_CACHES = " avx512f " in Path("/proc/cpuinfo").read_text()  # vLLM's CPU build needs it for them

Tokens = list[int]
Answer = dict[str, Any]


@dataclass(frozen=True)
class Serving:
    """What servers that exchange caches have in common: the model and how its cache is kept."""

    model: Path
    block_size: int = BLOCK_TOKENS
    dtype: Literal["float32", "bfloat16"] = "float32"
    arguments: str = ""  # more of vLLM's, e.g. the cache's type
    variables: Mapping[str, str] = field(default_factory=dict)  # more of the launcher's


@dataclass(frozen=True)
class Size:
    """Stages of a pipeline, of so many ranks each."""

    ranks: int = 1
    stages: int = 1


class Server:
    """One vLLM server, as the launcher would start it; `wait` says when it is up."""

    def __init__(self, role: Role, size: Size, host: str, order: Order, pid: int) -> None:
        self.address = f"tcp://{host}:"  # its control addresses begin so
        self.url = f"http://{host}:{PORTS[role]}"
        self.instance_id = order["instance_id"]
        # What a proxy would tell a consumer about it.
        self.record: dict[str, Any] = {
            "engine_id": self.instance_id,
            "control": [f"{self.address}{CONTROL_PORT + rank}" for rank in range(size.ranks * size.stages)],
            "pipeline_parallel_size": size.stages,
        }
        self._log = Path(order["log"])
        self._process = psutil.Process(pid)

    def wait(self) -> None:
        wait_until(lambda: self.has_ended or answers(self.url + "/health"), START_LIMIT_S, f"{self._log.name} is up")
        assert not self.has_ended, f"it has ended:\n{self.log[-6000:]}"

    def stop(self) -> None:
        if not self.has_ended:
            self._process.terminate()

    def kill(self) -> None:
        """All of its processes at once, without a word to anybody."""
        os.killpg(self._process.pid, signal.SIGKILL)
        wait_until(lambda: self.has_ended, STOP_LIMIT_S, f"{self.url} is killed")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its processes are stopped; the kernel still accepts connections for them."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def processes(self) -> list[psutil.Process]:
        """Of its engines and their ranks."""
        return self._process.children(recursive=True)

    @property
    def has_ended(self) -> bool:
        return not self._process.is_running()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def is_idle(self) -> bool:
        """No request is left, and no block is held for one or for a transfer."""
        post(self.url + "/v1/completions", {"model": NAME, "prompt": [1], "max_tokens": 1})  # its figures are a step's
        found = metrics(self.url)
        busy = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
        return not any(found[name] for name in busy)


class Fleet:
    """Servers of which none is left when the context is left."""

    def __init__(self, folder: Path, etcd_endpoint: str) -> None:
        self._folder = folder
        self._etcd = etcd_endpoint
        # While this file exists producers claim their writes and move nothing (connector/mooncake/engine.py).
        self.drop_writes = folder / "drop-writes"
        # While this file exists consumers do not ask for layers that match its content, a regular expression over
        # `group 1: model.layers.0.self_attn.attn`.
        self.unmoved = folder / "unmoved-layers"
        self._servers: list[Server] = []
        self._started = 0
        ours = {name.upper() for name in LauncherSettings.model_fields}
        inherited = {name: value for name, value in os.environ.items() if name not in ours}
        with (folder / "forking.log").open("wb") as log:
            self._forking = subprocess.Popen(
                [REPOSITORY / ".stack/venv/vllm/bin/python", "-m", forking_vllm.__name__],
                cwd=REPOSITORY,
                env=inherited | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._read() == "ready", (folder / "forking.log").read_text()

    def start(self, role: Role, serving: Serving, ranks: int = 1, stages: int = 1) -> Server:
        """ranks: of each of the pipeline's stages."""
        self._started += 1
        pid = os.getpid()
        host = f"127.{pid // 256 % 256}.{pid % 256}.{self._started}"
        variables = {
            "VLLM_DISTRIBUTED_KV_ROLE": LAUNCHER_ROLES[role],
            "VLLM_HOST_IP": host,
            "PREFILL_PORT": str(PORTS["prefill"]),
            "DECODE_PORT": str(PORTS["decode"]),
            "AGGREGATED_PORT": str(PORTS["aggregated"]),
            "CONTROL_PORT": str(CONTROL_PORT),
            "ETCD_ENDPOINT": self._etcd,
            "STACK_KEY": STACK_KEY,
            "MODEL": str(serving.model),
            "SERVED_MODEL_NAME": NAME,
            "MAX_MODEL_LEN": str(MAX_MODEL_LEN),
            "DTYPE": serving.dtype,
            "BLOCK_SIZE": str(serving.block_size),
            "KV_CACHE_BYTES": str(KV_CACHE_BYTES),
            "MAX_NUM_BATCHED_TOKENS": str(CHUNK_TOKENS),
            "TENSOR_PARALLEL_SIZE": str(ranks),
            "PIPELINE_PARALLEL_SIZE": str(stages),
            "VLLM_EXTRA_ARGS": serving.arguments,
            "TRANSFER_CHECKSUM": "true",
            # Four ranks on two cores have been seen to stand still for more than the 6 s without progress after which
            # a write is given up by default. These tests are about what moves, not about how long it may take.
            "TRANSFER_TIMEOUT_S": "180",
            "TRANSFER_CANCEL_TIMEOUT_S": "125",
            "CONNECTOR_DROP_WRITES_FILE": str(self.drop_writes),
            **serving.variables,
        }
        order = Order(
            instance_id=f"{role}-{uuid.uuid4().hex}",
            variables=variables,
            log=str(self._folder / f"{serving.model.name}-{role}-{self._started}.log"),
            unmoved=str(self.unmoved),
        )
        assert self._forking.stdin is not None
        self._forking.stdin.write(json.dumps(order) + "\n")
        self._forking.stdin.flush()
        self._servers.append(Server(role, Size(ranks, stages), host, order, int(self._read())))
        return self._servers[-1]

    def wait(self) -> None:
        """Until all are up; if one is not, all end."""
        try:
            for server in self._servers:
                server.wait()
        except AssertionError:
            self.stop_all()
            raise

    def _read(self) -> str:
        assert self._forking.stdout is not None
        return self._forking.stdout.readline().strip()

    def stop_all(self) -> None:
        for server in self._servers:
            server.stop()
        for server in self._servers:
            wait_until(lambda s=server: s.has_ended, STOP_LIMIT_S, f"{server.url} has ended")
        self._servers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._forking.communicate(timeout=STOP_LIMIT_S)


async def answers_of(server: Server, prompts: Sequence[Tokens], **more: Any) -> list[Tokens]:
    """Greedy answers of this server alone, all requests at once. It uses no block that it has got by a transfer."""
    more = {"cache_salt": uuid.uuid4().hex} | more  # part of a cached block's name
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        found = await asyncio.gather(*(complete(session, server, prompt, **more) for prompt in prompts))
    return [token_ids(answer) for answer in found]


async def answers_by_transfer(
    producer: Server, consumer: Server, prompts: Sequence[Tokens], **more: Any
) -> list[Answer]:
    """The consumer's answers to greedy requests whose two legs are posted at once, all requests at once."""
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:

        async def one(prompt: Tokens) -> Answer:
            transfer = {"transfer_id": uuid.uuid4().hex}
            theirs = {"do_remote_decode": True, **transfer}
            ours = {"do_remote_prefill": True, "producer": producer.record, **transfer}
            _, answer = await asyncio.gather(
                complete(session, producer, prompt, max_tokens=1, kv_transfer_params=theirs),
                complete(session, consumer, prompt, **more, kv_transfer_params=ours),
            )
            return answer

        return list(await asyncio.gather(*map(one, prompts)))


def token_ids(answer: Answer) -> Tokens:
    return list(answer["choices"][0]["token_ids"])


async def complete(session: aiohttp.ClientSession, server: Server, prompt: Tokens, **more: Any) -> Answer:
    """One greedy answer."""
    body = {
        "model": NAME,
        "prompt": prompt,
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS,
        "ignore_eos": True,
        "return_token_ids": True,
        **more,
    }
    async with session.post(server.url + "/v1/completions", json=body) as response:
        answer = await response.json()
        assert response.status == 200, (response.status, answer, server.log[-3000:])
        assert isinstance(answer, dict)
        return answer

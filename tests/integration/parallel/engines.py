"""Servers of data-parallel engines as the proxy sees them, and what it tells of the engines that a request went to."""

import asyncio
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from connector.telling.transfer_facts import PIPE_VARIABLE
from proxy.routing.fleet import View
from stack.instances.record import Engine, Instance, Role, engine_id
from tests.real_stack import metrics
from tests.tiny_models import END_OF_TEXT
from tests.tiny_servers.instances import ANSWER_TOKENS, CONTROL_PORT, NAME, Server, Tokens, answers_of
from tests.unit.proxy.conftest import RunningProxy

ENGINES = 2
DATA_PARALLEL = f"--data-parallel-size {ENGINES}"
PATIENCE_S = 30


@dataclass(frozen=True)
class Servers:
    """The first two have `ENGINES` each, and the plain one does not."""

    producer: Server
    consumer: Server
    plain: Server

    @property
    def view(self) -> View:
        records = (instance("prefill", self.producer), instance("decode", self.consumer))
        return View(tuple(engine for record in records for engine in record.by_engine()), revision=1)


def instance(role: Role, server: Server) -> Instance:
    """As its launcher would register it."""
    ranks = len(server.record["control"])
    stages = server.record["pipeline_parallel_size"]
    return Instance(
        role=role,
        instance_id=server.instance_id,
        url=server.url,
        served_models=(NAME,),
        model=NAME,
        max_model_len=3200,
        block_size=32,
        dtype="float32",
        tensor_parallel_size=ranks // stages,
        pipeline_parallel_size=stages,
        fingerprint="the same",
        kv_transfer={},
        engines=tuple(
            Engine(
                rank=engine,
                pin=engine,
                kv_transfer={
                    "engine_id": engine_id(server.instance_id, engine),
                    "control": [f"{server.address}{CONTROL_PORT + engine * ranks + rank}" for rank in range(ranks)],
                    "pipeline_parallel_size": stages,
                },
            )
            for engine in range(ENGINES)
        ),
        vllm_version="0.32.0",
        connector_version="0.1.0",
        started_at=1000.0,
    )


def pipe_of_facts(file: Path) -> dict[str, str]:
    """Variables of a consumer whose answers shall say what has come, as its launcher gives them: a stream or an early
    answer is told of it through a pipe, into which all of its engines write."""
    os.mkfifo(file)
    return {PIPE_VARIABLE: str(file)}


def prompts(name: str, *lengths: int) -> list[Tokens]:
    """That nobody has cached."""
    numbers = random.Random(name)
    return [[numbers.randrange(END_OF_TEXT) for _ in range(length)] for length in lengths]


@dataclass(frozen=True)
class Told:
    """An answer's tokens and usage, and what its headers say."""

    tokens: Tokens
    usage: dict[str, Any]
    headers: Mapping[str, str]

    @property
    def engines(self) -> tuple[str, str]:
        return self.headers["X-PD-Producer"], self.headers["X-PD-Consumer"]


async def ask(proxy: RunningProxy, prompt: Tokens, headers: dict[str, str] | None = None, **more: Any) -> Told:
    body = {"model": NAME, "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0, "ignore_eos": True}
    body |= {"return_token_ids": True, **more}
    timeout = aiohttp.ClientTimeout(total=4 * PATIENCE_S)
    async with proxy.post("/v1/completions", json=body, headers=headers, timeout=timeout) as response:
        answer = await response.json()
        assert response.status == 200, answer
        return Told(list(answer["choices"][0]["token_ids"]), answer["usage"], response.headers)


def names_of(server: Server) -> list[str]:
    return [engine_id(server.instance_id, rank) for rank in range(ENGINES)]


def by_engine(server: Server, metric: str) -> list[float]:
    """Of each engine, by rank."""
    return [metrics(server.url, rank)[metric] for rank in range(ENGINES)]


async def facts_of_same_answers(servers: Servers, proxy: RunningProxy, asked: Sequence[Tokens]) -> list[Told]:
    """Asserts that all requests at once are answered as by a plain server, with their cache from a producer."""
    expected = await answers_of(servers.plain, asked)
    told = await asyncio.gather(*(ask(proxy, prompt) for prompt in asked))
    assert [each.tokens for each in told] == expected
    for prompt, each in zip(asked, told, strict=True):
        assert int(each.headers["X-PD-Kv-Tokens"]) == len(prompt), each.headers
        assert each.headers["X-PD-First-Token"] == "producer", each.headers
    return told


def process_of_engine(server: Server, rank: int) -> psutil.Process:
    """The one that listens on that engine's control port."""
    address = server.address.removeprefix("tcp://").rstrip(":"), CONTROL_PORT + rank
    (found,) = [
        process
        for process in server.processes()
        if any(each.status == psutil.CONN_LISTEN and each.laddr == address for each in process.net_connections("tcp"))
    ]
    return found

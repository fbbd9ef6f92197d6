"""The hybrid way over two hosts: three engines of one producer, two on the first host and one on the second.

Each host's server serves its own engines and has its own record; rank 0 waits at its start for the other host's. The
second host has also etcd, the consumer and the proxy. Addresses are the seed document's; root.
"""

import json
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from stack.instances.record import PREFIX, Instance
from tests import etcd_http, tiny_models
from tests.parallel.stacks import SEEN_LIMIT_S, completion, control_ports, names_of, prompts
from tests.real_stack import BLOCK_TOKENS, START_LIMIT_S, answers, wait_until
from tests.tiny_servers.instances import NAME, Tokens
from tests.two_hosts.hosts import two_hosts
from tests.two_hosts.nodes import DECODE, ETCD, PREFILL, PROXY, Node, node

ENGINES = 3
RATE = "400mbit"
HYBRID = f"--data-parallel-size {ENGINES} --data-parallel-hybrid-lb --data-parallel-address {PREFILL}"
HERE = f"{HYBRID} --data-parallel-size-local 2"
THERE = f"{HYBRID} --data-parallel-size-local 1 --data-parallel-start-rank 2"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    folder = tmp_path_factory.mktemp("hybrid")
    served = {
        "MODEL": str(tiny_models.grouped_query(2).write(folder / "models")),
        "SERVED_MODEL_NAME": NAME,
        "BLOCK_SIZE": str(BLOCK_TOKENS),
        "PROXY_LOCAL_PROMPT_TOKENS": "0",
    }
    with (
        two_hosts(PREFILL, DECODE, RATE) as (first, second),
        node(second, folder / "b", "etcd,prefill,decode,proxy", PREFILL_VLLM_EXTRA_ARGS=THERE, **served) as there,
        node(first, folder / "a", "prefill", PREFILL_VLLM_EXTRA_ARGS=HERE, **served) as here,
    ):
        starting = second.call(there.up)
        wait_until(lambda: second.call(answers, f"http://{ETCD}/health").result(), START_LIMIT_S, "etcd")
        here.up()
        starting.result()
        wait_until(lambda: len(second.call(records).result()) == 3, SEEN_LIMIT_S, "three servers are registered")
        wait_until(lambda: len(second.call(shown).result()) == 4, SEEN_LIMIT_S, "the proxy knows all engines")
        yield here, there


def records() -> list[Instance]:
    values = etcd_http.under(f"http://{ETCD}", PREFIX).values()
    return sorted((Instance.model_validate_json(value) for value in values), key=lambda each: (each.role, each.url))


def shown() -> dict[str, dict[str, Any]]:
    with urllib.request.urlopen(f"{PROXY}/instances", timeout=SEEN_LIMIT_S) as answer:
        return {each["instance_id"]: each for each in json.load(answer)["instances"]}


def ask(url: str, prompt: Tokens, **more: Any) -> tuple[Tokens, dict[str, str]]:
    """Its answer's tokens, and its headers, by their names in small letters."""
    body = json.dumps(completion(prompt, **more)).encode()
    request = urllib.request.Request(url + "/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SEEN_LIMIT_S) as answer:
        return list(json.load(answer)["choices"][0]["token_ids"]), {
            name.lower(): value for name, value in answer.headers.items()
        }


def test_each_hosts_server_has_a_record_of_its_own_engines(nodes: tuple[Node, Node]) -> None:
    """A request names an engine by its place on that host, where there is more than one."""
    _, there = nodes
    consumer, first, second = there.host.call(records).result()
    assert (consumer.role, consumer.engines) == ("decode", ())
    assert [(engine.rank, engine.pin) for engine in first.engines] == [(0, 0), (1, 1)]
    assert [(engine.rank, engine.pin) for engine in second.engines] == [(2, None)]
    assert [control_ports(engine) for engine in first.engines] == [[13003], [13004]]
    assert [control_ports(engine) for engine in second.engines] == [[13003]]
    ranks = {each["data_parallel_rank"] for each in there.host.call(shown).result().values()}
    assert ranks == {None, 0, 1, 2}


def test_every_engine_of_both_hosts_computes_for_the_consumer(nodes: tuple[Node, Node]) -> None:
    _, there = nodes
    _, first, second = there.host.call(records).result()
    asked = prompts("both hosts", 700, 900, 600, 333, 1200, 64)
    alone = partial(ask, f"http://{DECODE}:8200", cache_salt="alone")
    expected = [there.host.call(alone, prompt).result() for prompt in asked]
    before = there.host.received_bytes()
    asking = [there.host.call(ask, PROXY, prompt) for prompt in asked]
    found = [each.result() for each in asking]
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    assert [int(headers["x-pd-kv-tokens"]) for _, headers in found] == [len(prompt) for prompt in asked]
    assert {headers["x-pd-producer"] for _, headers in found} == {*names_of([first]), *names_of([second])}
    moved = sum(int(headers["x-pd-kv-bytes"]) for _, headers in found if headers["x-pd-producer"] in names_of([first]))
    assert there.host.received_bytes() - before > moved > 0, "over the wire, from the first host's engines"


def test_without_the_other_host_the_engines_here_go_on(nodes: tuple[Node, Node]) -> None:
    """Engines of a dense model have nothing to say to each other."""
    here, there = nodes
    _, first, second = there.host.call(records).result()
    assert here.make("down").returncode == 0
    wait_until(
        lambda: set(there.host.call(shown).result()).isdisjoint(names_of([first])), SEEN_LIMIT_S, "they have left"
    )
    for prompt in prompts("the other host is gone", 100, 200):
        _, headers = there.host.call(ask, PROXY, prompt).result()
        assert [headers["x-pd-producer"]] == names_of([second])

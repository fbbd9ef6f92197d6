"""What instances say that they serve: context length, LoRA adapters that come and go, a template with the time of day.

Both instances have the adapters, and the cache that moves is theirs. It moves over IPv6, between the addresses of a
`mooncake.json` as Mooncake's documents show it.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stack.instances.record import PREFIX
from tests import etcd_http
from tests.integration.proxy.answers import ask_both
from tests.real_stack import PATIENCE_S, RealStack, running
from tests.tiny_models import ADAPTER_RANK, END_OF_TEXT, grouped_query

MODEL, ADAPTER, EXTRA = "tiny", "tiny-adapted", "extra"
CONTEXT_TOKENS = 2048
FOLLOWED_WITHIN_S = 30  # some seconds, on a busy machine
CHATS = 4


class AdapterStack(RealStack):
    def __post_init__(self) -> None:
        super().__post_init__()
        model = grouped_query(kv_heads=2)
        adapter = model.write_adapter(self.folder / "adapter")
        # The same weights in two folders, and others.
        self.extra = model.write_adapter(self.folder / "extra", seed=8)
        self.extra_copy = shutil.copytree(self.extra, self.folder / "copy")
        self.other = model.write_adapter(self.folder / "other", seed=9)
        folder = model.write(self.folder)
        # The two sides read one clock in the same microsecond once in 570 chats, and so many never.
        clocks = '{% for _ in range(20) %}{{ strftime_now("%f") }} {% endfor %}'
        messages = "{% for message in messages %}{{ message.content }}{% endfor %}"
        (folder / "chat_template.jinja").write_text(clocks + messages)
        self.prefill_url, self.decode_url = (
            url.replace("127.0.0.1", "[::1]") for url in (self.prefill_url, self.decode_url)
        )
        control = int(self.variables.pop("CONTROL_PORT"))
        self.control = [f"[::1]:{control}", f"[::1]:{control + 1}"]
        mooncake = {
            "local_hostname": "::1",
            "metadata_server": f"etcd://[::1]:{self.variables['ETCD_PORT']}",
            "prefill_url": self.control[0],
            "decode_url": self.control[1],
            "protocol": "tcp",
            "device_name": "",
            "master_server_address": "[::1]:50051",
        }
        (self.folder / "mooncake.json").write_text(json.dumps(mooncake), encoding="utf-8-sig")
        self.variables |= {
            "BIND_ADDRESS": "::",
            "VLLM_HOST_IP": "::1",
            "MOONCAKE_CONFIG_PATH": str(self.folder / "mooncake.json"),
            "STACK_SERVICES": "etcd,prefill,decode,proxy",
            "MODEL": str(folder),
            "SERVED_MODEL_NAME": MODEL,
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_EXTRA_ARGS": f"--enable-lora --max-lora-rank {ADAPTER_RANK} --lora-modules {ADAPTER}={adapter} "
            f"--max-model-len {CONTEXT_TOKENS}",
        }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterStack]:
    with running(AdapterStack(tmp_path_factory.mktemp("adapters"))) as started:
        yield started


async def test_the_instances_are_on_ipv6_and_the_api_on_both(stack: AdapterStack) -> None:
    async with aiohttp.ClientSession() as session:
        for api_url in (stack.api_url, stack.api_url.replace("127.0.0.1", "[::1]")):
            async with session.get(api_url + "/instances") as answer:
                found = {each["role"]: each for each in (await answer.json())["instances"]}
            assert (found["prefill"]["url"], found["decode"]["url"]) == (stack.prefill_url, stack.decode_url)
    values = etcd_http.under(stack.etcd_url, PREFIX).values()
    records = {record["role"]: record for record in map(json.loads, values)}
    assert [records[role]["kv_transfer"]["control"] for role in ("prefill", "decode")] == [
        [f"tcp://{address}"] for address in stack.control
    ]


async def test_models_are_listed_as_by_one_server(stack: AdapterStack) -> None:
    """With every field, but for times and ids that vLLM makes up in each answer."""
    listed = []
    async with aiohttp.ClientSession() as session:
        for url in (stack.api_url, stack.prefill_url):
            async with session.get(url + "/v1/models") as answer:
                models = (await answer.json())["data"]
            for model in models:
                del model["created"]
                for permission in model["permission"]:
                    del permission["created"], permission["id"]
            listed.append(models)
    assert listed[0] == listed[1]
    told = [(model["id"], model["parent"], model["max_model_len"]) for model in listed[0]]
    assert told == [(MODEL, None, CONTEXT_TOKENS), (ADAPTER, MODEL, None)]


def long_prompt(model: str, seed: int) -> dict[str, Any]:
    prompt = Random(seed).choices(range(END_OF_TEXT), k=200)
    body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 16}
    return body | {"ignore_eos": True, "return_token_ids": True}


async def test_the_adapters_cache_is_moved(stack: AdapterStack) -> None:
    """The producer alone, which has computed everything itself, says what the answers have to be."""
    answers = []
    for model in (MODEL, ADAPTER):
        body = long_prompt(model, seed=1)
        found, expected = await ask_both(stack.api_url, stack.prefill_url, "/v1/completions", body)
        assert found.headers["X-PD-Path"] == "disaggregated"
        assert found.moved == len(body["prompt"]), "another model's blocks are none of this one's"
        assert found.content["model"] == model
        assert found.content["choices"] == expected.content["choices"]
        answers.append(found.content["choices"][0]["token_ids"])
    assert answers[0] != answers[1]


async def test_adapters_that_come_and_go_are_followed(stack: AdapterStack) -> None:
    async with aiohttp.ClientSession() as session:

        async def change(url: str, what: str, **more: str) -> None:
            async with session.post(f"{url}/v1/{what}_lora_adapter", json={"lora_name": EXTRA, **more}) as answer:
                assert answer.status == 200, await answer.text()

        async def told() -> tuple[int, str]:
            async with session.post(stack.api_url + "/v1/completions", json=long_prompt(EXTRA, seed=2)) as answer:
                content = await answer.json()
            return answer.status, content.get("error", {}).get("message", "")

        async def becomes(status: int, words: str) -> None:
            await until(told, lambda found: found[0] == status and words in found[1])

        await becomes(404, f"`{EXTRA}` does not exist")
        await change(stack.prefill_url, "load", lora_path=str(stack.extra))
        await becomes(503, f"No decode instance serves `{EXTRA}`")
        await change(stack.decode_url, "load", lora_path=str(stack.other))
        await becomes(503, f"different weights of the adapter `{EXTRA}`")
        await change(stack.decode_url, "unload")
        await becomes(503, f"No decode instance serves `{EXTRA}`")
        await change(stack.decode_url, "load", lora_path=str(stack.extra_copy))
        await becomes(200, "")
        body = long_prompt(EXTRA, seed=3)
        found, expected = await ask_both(stack.api_url, stack.prefill_url, "/v1/completions", body)
        assert found.moved == len(body["prompt"])
        assert found.content["choices"] == expected.content["choices"]
        async with session.get(f"{stack.api_url}/v1/models/{EXTRA}") as answer:
            assert (await answer.json())["parent"] == MODEL
        await change(stack.prefill_url, "unload")
        await becomes(503, f"No prefill instance serves `{EXTRA}`")
        await change(stack.decode_url, "unload")
        await becomes(404, f"`{EXTRA}` does not exist")


async def until(look: Callable[[], Awaitable[Any]], accepts: Callable[[Any], bool]) -> None:
    deadline = time.monotonic() + FOLLOWED_WITHIN_S
    while not accepts(found := await look()):
        assert time.monotonic() < deadline, f"still {found}"
        await asyncio.sleep(0.3)


async def test_a_template_with_the_time_of_day_costs_the_transfer_and_nothing_else(stack: AdapterStack) -> None:
    """The two sides' prompts are of equal length and differ in some digits: none of one may answer the other."""
    async with aiohttp.ClientSession() as session:
        before = await failed_shares(session, stack)
        for number in range(CHATS):
            content = "".join(Random(number).choices("abcdefgh", k=200))
            body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
            body |= {"temperature": 0, "max_tokens": 16, "ignore_eos": True, "return_token_ids": True}
            began = time.monotonic()
            async with session.post(stack.api_url + "/v1/chat/completions", json=body) as answer:
                chat = await answer.json()
            assert time.monotonic() - began < PATIENCE_S
            assert answer.status == 200, chat
            assert (answer.headers["X-PD-Path"], answer.headers["X-PD-Kv-Bytes"]) == ("disaggregated", "0")
            # What one server makes of the very prompt that the consumer had.
            body = long_prompt(MODEL, seed=0) | {"prompt": chat["prompt_token_ids"]}
            async with session.post(stack.prefill_url + "/v1/completions", json=body) as answer:
                (expected,) = (await answer.json())["choices"]
            assert chat["choices"][0]["token_ids"] == expected["token_ids"]

        async def is_counted() -> tuple[float, float]:
            return await failed_shares(session, stack) - before, await blocks_held(session, stack)

        await until(is_counted, lambda found: found == (CHATS, 0))
    assert "look for the time of day in the chat template" in stack.logs()


async def failed_shares(session: aiohttp.ClientSession, stack: AdapterStack) -> float:
    return await metric(session, stack.decode_url, "pd_kv_failed_shares_total", cause="wrong prompt")


async def blocks_held(session: aiohttp.ClientSession, stack: AdapterStack) -> float:
    return sum([await metric(session, url, "pd_kv_blocks_held") for url in (stack.prefill_url, stack.decode_url)])


async def metric(session: aiohttp.ClientSession, url: str, name: str, **labels: str) -> float:
    """Summed over the labels that are not given, after a step, with which counts travel."""
    async with session.post(url + "/v1/completions", json={"model": MODEL, "prompt": [1], "max_tokens": 1}) as answer:
        assert answer.status == 200
    async with session.get(url + "/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

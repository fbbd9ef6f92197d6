"""LoRA adapters by their names, through both legs: both instances have them, and the cache that moves is theirs."""

from collections.abc import Iterator
from random import Random
from typing import Any

import aiohttp
import pytest

from tests.integration.proxy.answers import ask_both
from tests.real_stack import RealStack, running
from tests.tiny_models import ADAPTER_RANK, END_OF_TEXT, grouped_query

MODEL, ADAPTER = "tiny", "tiny-adapted"


class AdapterStack(RealStack):
    def __post_init__(self) -> None:
        super().__post_init__()
        model = grouped_query(kv_heads=2)
        adapter = model.write_adapter(self.folder)
        self.variables |= {
            "STACK_SERVICES": "etcd,prefill,decode,proxy",
            "MODEL": str(model.write(self.folder)),
            "SERVED_MODEL_NAME": MODEL,
            "VLLM_EXTRA_ARGS": f"--enable-lora --max-lora-rank {ADAPTER_RANK} --lora-modules {ADAPTER}={adapter}",
        }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterStack]:
    with running(AdapterStack(tmp_path_factory.mktemp("adapters"))) as started:
        yield started


async def test_both_names_are_listed_as_by_one_server(stack: AdapterStack) -> None:
    listed = []
    async with aiohttp.ClientSession() as session:
        for url in (stack.api_url, stack.prefill_url):
            async with session.get(url + "/v1/models") as answer:
                models = (await answer.json())["data"]
            listed.append([{name: model[name] for name in ("id", "object", "root", "parent")} for model in models])
    assert listed[0] == listed[1]
    assert [(model["id"], model["parent"]) for model in listed[0]] == [(MODEL, None), (ADAPTER, MODEL)]


async def test_the_adapters_cache_is_moved(stack: AdapterStack) -> None:
    """The producer alone, which has computed everything itself, says what the answers have to be."""
    prompt = Random(1).choices(range(END_OF_TEXT), k=200)
    answers = []
    for model in (MODEL, ADAPTER):
        body: dict[str, Any] = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 16}
        body |= {"ignore_eos": True, "return_token_ids": True}
        found, expected = await ask_both(stack.api_url, stack.prefill_url, "/v1/completions", body)
        assert found.headers["X-PD-Path"] == "disaggregated"
        assert found.moved == len(prompt), "another model's blocks are none of this one's"
        assert found.content["model"] == model
        assert found.content["choices"] == expected.content["choices"]
        answers.append(found.content["choices"][0]["token_ids"])
    assert answers[0] != answers[1]

"""What dispatch learns of a KV store that producers share, from requests that pass through a running proxy."""

from dataclasses import replace
from typing import Any

import pytest

from proxy.request.prompt import read_prompt
from proxy.routing.dispatch import Demand
from proxy.routing.shared_store import LOADED_TOKEN
from tests.unit.proxy.conftest import Stack, StartStack, eventually
from tests.unit.proxy.scripted import DONE, MODEL, Script, replies, streams, token

STREAM = {"model": MODEL, "prompt": [7] * 1280, "stream": True}
PROMPT = read_prompt(STREAM, "/v1/completions", 4.0)
FROM_STORE = int(1280 * LOADED_TOKEN) + 1


def answers(store_tokens: int | None) -> Script:
    told: dict[str, Any] = {} if store_tokens is None else {"kv_transfer_params": {"store_tokens": store_tokens}}
    return replies(200, {"choices": [{"text": " city"}], **told})


async def sharing(start_stack: StartStack, *producers: Script) -> Stack:
    stack = await start_stack(producers, [streams(token(" city"), DONE)])
    fleet = stack.proxy.gateway.fleet
    shared = tuple(each.model_copy(update={"store": "master:50051/1a2b"}) for each in fleet.view.instances)
    fleet.update(replace(fleet.view, instances=shared))
    return stack


async def ask(stack: Stack) -> str:
    """Returns: the producer that took the prompt, when everything of the request is over."""
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        await answer.read()
    await eventually(lambda: not stack.proxy.gateway.fleet.in_hand())
    return answer.headers["X-PD-Producer"]


def cost_at_the_other(stack: Stack, holder: str) -> int:
    fleet = stack.proxy.gateway.fleet
    return fleet.route(Demand(MODEL, PROMPT), {holder}).prefill_tokens


async def test_what_one_producer_has_computed_costs_the_other_a_load(start_stack: StartStack) -> None:
    stack = await sharing(start_stack, answers(0), answers(0))
    assert cost_at_the_other(stack, "p1") == 1280
    assert await ask(stack) == "p0"
    assert cost_at_the_other(stack, "p0") == FROM_STORE


@pytest.mark.parametrize(("found", "relied_on"), [(1279, True), (0, False), (None, True)])
async def test_what_is_expected_of_it_is_what_came(found: int | None, relied_on: bool, start_stack: StartStack) -> None:
    stack = await sharing(start_stack, answers(0), answers(found))
    fleet = stack.proxy.gateway.fleet
    assert await ask(stack) == "p0"
    (p0,) = (each for each in fleet.view.instances if each.instance_id == "p0")
    fleet.update(replace(fleet.view, instances=tuple(each for each in fleet.view.instances if each != p0)))
    assert await ask(stack) == "p1"
    again = p0.model_copy(update={"instance_id": "p2"})
    fleet.update(replace(fleet.view, instances=(*fleet.view.instances, again)))
    assert (cost_at_the_other(stack, "p1") == FROM_STORE) is relied_on

"""The metrics that OpenTelemetry's conventions for generative AI name, and goodput's count beside them."""

import asyncio

import pytest
from aiohttp import web

from tests.unit.proxy.conftest import StartStack, eventually
from tests.unit.proxy.scripted import DONE, MODEL, prefilled, replies, streams, token

STREAM = {"model": MODEL, "prompt": "San Francisco is a", "stream": True}
OF_A_STREAM = f'gen_ai_operation_name="text_completion",gen_ai_provider_name="vllm",gen_ai_request_model="{MODEL}"'


def streams_counted(ttft: str, tpot: str) -> str:
    return f'pd_proxy_streams_total{{tpot="{tpot}",ttft="{ttft}"}}'


async def slow_stream(request: web.Request) -> web.StreamResponse:
    """Three tokens, with some time between them."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for text in ("a", "b", "c"):
        await response.write(token(text))
        await asyncio.sleep(0.01)
    await response.write(DONE)
    return response


async def test_a_stream_is_measured_once_it_has_ended(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [slow_stream])
    assert await stack.proxy.metric(streams_counted("met", "met")) == 0
    assert await stack.proxy.status("/v1/completions", json=STREAM) == 200
    await eventually(lambda: not stack.proxy.gateway.being_served)
    metric, labels = stack.proxy.metric, OF_A_STREAM
    assert await metric(f"gen_ai_server_time_to_first_token_seconds_count{{{labels}}}") == 1
    assert await metric(f"gen_ai_server_time_per_output_token_seconds_count{{{labels}}}") == 1
    assert await metric(f"gen_ai_server_time_per_output_token_seconds_sum{{{labels}}}") >= 0.01
    assert await metric(f'gen_ai_server_request_duration_seconds_count{{error_type="",{labels}}}') == 1
    assert await metric(streams_counted("met", "met")) == 1


@pytest.mark.parametrize(
    ("bounds", "ttft", "tpot"),
    [
        ({"proxy_goodput_ttft_s": 1e-6}, "missed", "met"),
        ({"proxy_goodput_tpot_s": 1e-6}, "met", "missed"),
    ],
)
async def test_a_stream_outside_a_bound_is_not_good(
    bounds: dict[str, float], ttft: str, tpot: str, start_stack: StartStack
) -> None:
    stack = await start_stack([prefilled()], [slow_stream], **bounds)
    assert await stack.proxy.status("/v1/completions", json=STREAM) == 200
    await eventually(lambda: not stack.proxy.gateway.being_served)
    assert await stack.proxy.metric(streams_counted(ttft, tpot)) == 1


@pytest.mark.parametrize(("status", "counted"), [(500, 1), (429, 1), (400, 0)], ids=str)
async def test_a_stream_that_failed_counts_unless_it_was_wrong(
    status: int, counted: int, start_stack: StartStack
) -> None:
    refusal = {"error": {"message": "no", "type": "error", "code": status}}
    stack = await start_stack([prefilled()], [replies(status, refusal)])
    assert await stack.proxy.status("/v1/completions", json=STREAM) == status
    await eventually(lambda: not stack.proxy.gateway.being_served)
    assert await stack.proxy.metric(streams_counted("missed", "missed")) == counted


async def test_an_invented_model_makes_no_series(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [streams(token("a"))])
    assert await stack.proxy.status("/v1/completions", json=STREAM | {"model": "invented"}) == 404
    async with stack.proxy.client.get(stack.proxy.url + "/metrics") as answer:
        assert "invented" not in await answer.text()
    labels = OF_A_STREAM.replace(MODEL, "")
    shown = f'gen_ai_server_request_duration_seconds_count{{error_type="model_not_found",{labels}}}'
    assert await stack.proxy.metric(shown) == 1

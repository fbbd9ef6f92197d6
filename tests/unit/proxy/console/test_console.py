"""The console's paths: the page for everyone, what it shows for holders of a key, and nothing of any prompt."""

import asyncio
import json
import os
import re
from typing import Any, get_args

import pytest
from yarl import URL

from proxy.console import routes, totals
from proxy.routing.dispatch import Reason
from tests.unit.proxy.conftest import Stack, StartStack, eventually
from tests.unit.proxy.scripted import DONE, MODEL, error, prefilled, streams, token
from tests.unit.proxy.telemetry.test_truth import FACTS, told

PROMPT = "San Francisco is a secret"
STREAM = {"model": MODEL, "prompt": PROMPT, "stream": True}
API = "/console/api/"
HOSTILE = "<img src=x onerror=alert(1)>\"'&/../?#"


async def start_pair(start_stack: StartStack, **settings: Any) -> Stack:
    async def consumer(request: Any) -> Any:
        await eventually(lambda: stack.proxy.gateway.fleet.outstanding("p0") == 0)
        return await told(streams(), FACTS)(request)

    stack = await start_stack([prefilled()], [consumer], **settings)
    return stack


async def get(stack: Stack, path: str, **headers: str) -> Any:
    async with stack.proxy.client.get(stack.proxy.url + path, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_the_page_needs_no_key_and_nothing_from_elsewhere(start_stack: StartStack) -> None:
    stack = await start_pair(start_stack, proxy_api_keys="alice:k1")
    for path in ("/", *(f"/console/{file.name}" for file in routes.PAGE.iterdir())):
        async with stack.proxy.client.get(stack.proxy.url + path) as answer:
            assert answer.status == 200
            text = await answer.text()
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "unsafe" not in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        for elsewhere in ("http://", "https://"):
            assert elsewhere not in text.replace("http://www.w3.org/", "")
        assert "innerHTML" not in text


@pytest.mark.parametrize("name", ["requests", "requests/1", "now", "map", "ratio"])
async def test_the_data_needs_a_key(name: str, start_stack: StartStack) -> None:
    stack = await start_pair(start_stack, proxy_api_keys="alice:k1")
    await stack.proxy.status(
        "/v1/completions", json=STREAM, headers={"Authorization": "Bearer k1", "X-Request-Id": "1"}
    )
    for headers, status in (({}, 401), ({"Authorization": "Bearer k2"}, 401), ({"Authorization": "Bearer k1"}, 200)):
        for method in ("GET", "HEAD"):
            async with stack.proxy.client.request(method, stack.proxy.url + API + name, headers=headers) as answer:
                assert answer.status == status


async def test_a_split_request_is_told_as_its_headers_tell_it(start_stack: StartStack) -> None:
    stack = await start_pair(start_stack)
    async with stack.proxy.post("/v1/completions", json=STREAM, headers={"X-Request-Id": "mine"}) as answer:
        await answer.read()
        timing = answer.headers["Server-Timing"]
        shown = {name: value for name, value in answer.headers.items() if name.startswith("x-pd-")}
    [row] = (await get(stack, API + "requests"))["requests"]
    assert (row["status"], row["path"], row["attempts"], row["recomputed"]) == (200, "disaggregated", 1, False)
    assert (row["producer"], row["consumer"], row["kv_bytes"], row["events"]) == ("p0", "d0", 4096, 2)
    for name in ("mine", row["key"]):
        found = await get(stack, API + "requests/" + name)
        headers = {name.lower(): value for name, value in found["headers"].items()}
        assert headers == {"x-request-id": "mine", **shown, "server-timing": timing}
        assert ", ".join(f"{phase};dur={ms:.2f}" for phase, ms in found["phases_ms"].items()) == timing
        assert sum(found["phases_ms"].values()) == pytest.approx(found["first_ms"], abs=0.05)
        assert found["transfer"] == FACTS
        assert [(each["producer"], each["consumer"]) for each in found["tries"]] == [("p0", "d0")]


async def test_the_gap_to_the_second_token_is_told(start_stack: StartStack) -> None:
    go_on = asyncio.Event()
    stack = await start_stack([prefilled()], [streams(token(" city"), go_on, token(" hall"), DONE)])
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        await answer.content.readany()
        go_on.set()
        said = json.loads((await answer.read()).rpartition(b": pd ")[2])
    [row] = (await get(stack, API + "requests"))["requests"]
    assert row["second_token_ms"] == said["second_token_ms"] > 0


@pytest.mark.parametrize("reason", sorted({*get_args(Reason)} - {"parameters"}))
def test_every_reason_has_its_words_in_both_languages(reason: str) -> None:
    """A parameter's name has those of `why_other`."""
    assert (routes.PAGE / "words.js").read_text().count(f"  why_{reason}: ") == 2


async def test_the_timeline_is_told_in_ms_after_the_prefill(start_stack: StartStack) -> None:
    facts = FACTS | {"timeline": "[[[0,3,4000,-1500,500,2],[4,5,96,100,400,1]],[[4,-3000,3000]]]"}
    stack = await start_stack([prefilled()], [told(streams(), facts)])
    await stack.proxy.status("/v1/completions", json=STREAM, headers={"X-Request-Id": "mine"})
    found = await get(stack, API + "requests/mine")
    assert found["transfer"] == FACTS
    assert found["writes"] == [
        {"first_layer": 0, "last_layer": 3, "bytes": 4000, "writes": 2, "at_ms": -1.5, "ms": 0.5},
        {"first_layer": 4, "last_layer": 5, "bytes": 96, "writes": 1, "at_ms": 0.1, "ms": 0.4},
    ]
    assert found["chunks"] == [{"end": 4, "at_ms": -3.0, "ms": 3.0}]


async def test_only_what_is_new_is_asked_for(start_stack: StartStack) -> None:
    stack = await start_pair(start_stack)
    for name in ("first", "second"):
        await stack.proxy.status("/v1/completions", json=STREAM, headers={"X-Request-Id": name})
    second, first = (await get(stack, API + "requests"))["requests"]
    assert (first["request_id"], second["request_id"]) == ("first", "second")
    assert (await get(stack, f"{API}requests?since={second['at']!r}"))["requests"] == [second]
    assert len((await get(stack, f"{API}requests?since=yesterday"))["requests"]) == 2


async def test_the_map_has_flows_and_failures(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [told(streams(), FACTS), error(500, "broken")])
    for _ in range(4):
        await stack.proxy.status("/v1/completions", json=STREAM)
    shown = await get(stack, API + "map")
    assert {each["instance_id"]: each["outstanding"] for each in shown["instances"]} == {"p0": 0, "d0": 0, "d1": 0}
    assert all(each["verdict"]["circuit"] == "closed" for each in shown["instances"])
    flows = {each["consumer"]: each for each in shown["flows"]}
    moved = flows["d0"]
    assert (moved["bytes"], moved["transports"], moved["failed"]) == (4 * 4096, ["tcp"], 0)
    assert moved["bytes_per_s"] == pytest.approx(4 * 4096 / 60)
    assert moved["moving_bytes_per_s"] == pytest.approx(4096 / 0.2)
    assert flows["d1"]["failed"] == flows["d1"]["requests"] > 0
    now = await get(stack, API + "now")
    assert now["legs"] == [["error", flows["d1"]["failed"]]]
    assert (now["paths"], now["statuses"]) == ([["disaggregated", "disaggregated", 4]], [["200", 4]])
    assert sum(point["requests_per_s"] for point in now["points"]) * totals.POINT_S == pytest.approx(4)
    assert len(now["points"]) == 60
    assert now["loadtest"] == {"port": 8089, "runs": []}


async def test_where_the_load_test_has_no_page_its_port_is_0(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [streams()], locust_port=0)
    assert (await get(stack, API + "now"))["loadtest"]["port"] == 0


async def test_running_and_waiting_requests_are_counted(start_stack: StartStack) -> None:
    go_on = asyncio.Event()
    stack = await start_stack(
        [prefilled()], [streams(token(" city"), go_on, DONE)], proxy_max_running_requests=1, proxy_max_queued_requests=1
    )
    posts = [asyncio.create_task(stack.proxy.status("/v1/completions", json=STREAM)) for _ in range(2)]
    await eventually(lambda: stack.proxy.gateway.admission.queued_requests == 1)
    assert await stack.proxy.status("/v1/completions", json=STREAM) == 429
    now = await get(stack, API + "now")
    assert (now["running"], now["queued"], now["most_queued"], now["statuses"]) == (1, 1, 1, [["429", 1]])
    go_on.set()
    assert await asyncio.gather(*posts) == [200, 200]


@pytest.mark.parametrize("body", [STREAM | {"model": HOSTILE}, STREAM | {"model": "half \ud800"}])
async def test_hostile_names_come_as_json_and_prompts_not_at_all(body: dict[str, Any], start_stack: StartStack) -> None:
    stack = await start_pair(start_stack)
    raw = json.dumps(body).encode()
    assert await stack.proxy.status("/v1/completions", data=raw, headers={"X-Request-Id": HOSTILE}) == 404
    async with stack.proxy.client.get(stack.proxy.url + API + "requests") as answer:
        assert answer.content_type == "application/json"
        text = await answer.text()
    [row] = json.loads(text)["requests"]
    assert (row["model"], row["request_id"]) == (body["model"], HOSTILE)
    assert PROMPT not in text
    url = stack.proxy.url + API + "requests/" + "".join(f"%{byte:02x}" for byte in HOSTILE.encode())
    async with stack.proxy.client.get(URL(url, encoded=True)) as answer:
        assert (answer.status, (await answer.json())["key"]) == (200, row["key"])


async def test_what_is_not_known_is_not_found(start_stack: StartStack) -> None:
    stack = await start_pair(start_stack)
    too_long = f"requests/{os.getpid()}-{5000 * '1'}"  # for a number that Python reads
    for path in ("requests/nobody", "requests/", "nothing", too_long):
        async with stack.proxy.client.get(stack.proxy.url + API + path, allow_redirects=False) as answer:
            assert answer.status in (307, 404)
    async with stack.proxy.client.get(stack.proxy.url + "/console/../routes.py") as answer:
        assert answer.status == 404


def test_the_page_is_small_and_its_two_languages_have_the_same_words() -> None:
    assert sum(file.stat().st_size for file in routes.PAGE.iterdir()) < 100_000
    source = (routes.PAGE / "words.js").read_text()
    english, chinese = (source.split(f"const {name} = {{")[1].split("\n};")[0] for name in ("EN", "ZH"))
    assert _names(english) == _names(chinese)


def _names(block: str) -> list[str]:
    without_texts = re.sub(r'"[^"]*"', '""', block)
    return sorted(re.findall(r"(\w+):", without_texts))

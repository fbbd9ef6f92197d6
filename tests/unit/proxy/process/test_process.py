"""`python -m proxy` as it is deployed: environment, etcd, logs, signals."""

import asyncio
import json
import signal
from asyncio.subprocess import PIPE

import aiohttp

from stack import etcd
from tests.etcd_process import EtcdProcess
from tests.unit.proxy.conftest import without_comment
from tests.unit.proxy.http.raw import post, split
from tests.unit.proxy.process.proxy_process import JSON, PATIENCE_S, proxy_process
from tests.unit.proxy.scripted import DONE, MODEL, ScriptedServer, streams, token

STREAM = {"model": MODEL, "prompt": "San Francisco is a", "stream": True}
SEEDS_BODY = """{
  "model": "SmolLM2-135M-Instruct",
  "prompt": "San Francisco is a",
  "max_tokens": 1000
}"""


async def test_the_seed_documents_curl(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    async with proxy_process(etcd_server, producer, consumer) as proxy:
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-s", f"{proxy.url}/v1/completions", "-H", "Content-Type: application/json", "-d", SEEDS_BODY),
            stdout=PIPE,
        )
        output, _ = await asyncio.wait_for(curl.communicate(), PATIENCE_S)
        assert json.loads(output) == {"choices": [{"text": " city"}]}
        proxy.process.send_signal(signal.SIGTERM)
        status, log = await proxy.ended()

    assert status == 0
    [line] = [each for each in log if each["event"] == "request"]
    assert line["level"] == "info"
    assert {name: line[name] for name in ("endpoint", "model", "status", "outcome", "producer", "consumer")} == {
        "endpoint": "/v1/completions",
        "model": MODEL,
        "status": 200,
        "outcome": "ok",
        "producer": "p0",
        "consumer": "d0",
    }


async def test_no_key_and_every_request_id_is_logged(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    keys = {"PROXY_API_KEYS": "alice:sk-alices-own", "OPENAI_API_KEY": "sk-the-stacks-own", "PROXY_LOG_LEVEL": "debug"}
    given = {"right": "Bearer sk-alices-own", "wrong": "Bearer sk-of-nobody", "odd": "Basic sk-of-nobody"}
    async with proxy_process(etcd_server, producer, consumer, **keys) as proxy:
        for name, authorization in given.items():
            headers = {"Authorization": authorization, "X-Request-Id": f"request-{name}"}
            async with proxy.client.post(f"{proxy.url}/v1/completions", data=SEEDS_BODY, headers=headers) as answer:
                assert answer.status == (200 if name == "right" else 401)
                assert "sk-" not in await answer.text()
        assert consumer.received[0].headers["Authorization"] == "Bearer sk-the-stacks-own"
        proxy.process.send_signal(signal.SIGTERM)
        _, log = await proxy.ended()
    assert "sk-" not in json.dumps(log)
    logged = {line["request_id"]: line["client"] for line in log if line["event"] == "request"}
    assert logged == {"request-right": "alice", "request-wrong": None, "request-odd": None}


async def test_503_when_an_instance_is_gone_and_back_when_it_is_back(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    body = {"model": MODEL, "prompt": "x"}
    async with proxy_process(etcd_server, producer, consumer) as proxy:
        with etcd.connect(etcd_server.endpoint) as registry:
            registry.delete(consumer.record.key)
            assert (await proxy.ready(503))["missing"] == ["decode"]
            async with proxy.client.post(proxy.url + "/v1/completions", json=body) as answer:
                assert answer.status == 503
            registry.put(consumer.record.key, consumer.record.model_dump_json())
            await proxy.ready()
            async with proxy.client.post(proxy.url + "/v1/completions", json=body) as answer:
                assert answer.status == 200


async def test_sigterm_lets_a_stream_finish(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    more = asyncio.Event()
    consumer.script = streams(token(" city"), more, token(" of"), DONE)
    async with proxy_process(etcd_server, producer, consumer) as proxy:
        async with proxy.client.post(proxy.url + "/v1/completions", json=STREAM) as answer:
            seen = await answer.content.readuntil(b"\n\n")
            proxy.process.send_signal(signal.SIGTERM)
            await _refuses_connections(proxy.url)
            more.set()
            seen += await answer.read()
        assert without_comment(seen) == token(" city") + token(" of") + DONE
        status, _ = await proxy.ended()
    assert status == 0


async def test_other_proxies_do_not_hold_it_up(etcd_server: EtcdProcess) -> None:
    async with proxy_process(etcd_server, PROXY_SHUTDOWN_GRACE_S="3600") as proxy:
        await proxy.ready(503)  # without instances
        async with proxy.client.get(proxy.url + "/loads") as answer:
            assert json.loads(await answer.content.readline())["loads"] == {}
            proxy.process.send_signal(signal.SIGTERM)
            while await answer.content.readline():
                pass
        assert (await proxy.ended())[0] == 0


async def test_who_sends_no_more_gets_its_answer_and_who_has_left_none(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    more = asyncio.Event()
    consumer.script = streams(token(" city"), more, token(" of"), DONE)
    async with proxy_process(etcd_server, producer, consumer) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(STREAM, version="1.0"))
        writer.write_eof()
        seen = await asyncio.wait_for(reader.readuntil(token(" city")), PATIENCE_S)
        more.set()
        seen += await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        _, _, events = split(seen)
        assert without_comment(events).replace(b": alive\n\n", b"") == token(" city") + token(" of") + DONE

        consumer.script = streams(token(" city"), asyncio.Event())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(STREAM))
        await asyncio.wait_for(reader.readuntil(b" city"), PATIENCE_S)
        writer.close()
        await asyncio.wait_for(consumer.cancelled.wait(), PATIENCE_S)


async def test_the_grace_ends_with_an_error_event(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    consumer.script = streams(token(" city"), asyncio.Event())
    async with proxy_process(etcd_server, producer, consumer, PROXY_SHUTDOWN_GRACE_S="0.3") as proxy:
        async with proxy.client.post(proxy.url + "/v1/completions", json=STREAM) as answer:
            await answer.content.readuntil(b"\n\n")
            proxy.process.send_signal(signal.SIGTERM)
            last = await asyncio.wait_for(answer.read(), PATIENCE_S)
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "shutting_down"
        status, log = await proxy.ended()
    assert status == 0
    assert [each["outcome"] for each in log if each["event"] == "request"] == ["shutting_down"]
    await asyncio.wait_for(consumer.cancelled.wait(), PATIENCE_S)


async def test_it_leaves_although_a_client_does_not_read(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    consumer.script = streams(*[token("x" * 60_000)] * 1000, DONE)
    async with (
        proxy_process(etcd_server, producer, consumer, PROXY_SHUTDOWN_GRACE_S="0.3") as proxy,
        proxy.client.post(proxy.url + "/v1/completions", json=STREAM) as answer,
    ):
        assert answer.status == 200
        proxy.process.send_signal(signal.SIGTERM)
        status, log = await proxy.ended()
    assert status == 0
    assert [each["outcome"] for each in log if each["event"] == "request"] == ["shutting_down"]
    assert log[-1]["event"] == "stopped"


async def test_two_workers_serve_one_port_and_count_together(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    consumer.metrics = b"vllm:kv_cache_usage_perc 0.625\n"
    async with proxy_process(etcd_server, producer, consumer, PROXY_WORKERS="2") as proxy:
        for _ in range(40):  # over a new connection each, which either worker may take
            async with (
                aiohttp.ClientSession(headers=JSON) as client,
                client.post(f"{proxy.url}/v1/completions", data=SEEDS_BODY) as answer,
            ):
                assert answer.status in (200, 503)  # 503: that worker has not reached etcd yet
        async with asyncio.timeout(PATIENCE_S):
            usage = f'pd_proxy_kv_cache_usage_ratio{{model="{MODEL}",role="decode"}} 0.625'
            text = ""
            while usage not in text:  # the instance is asked beside the first answer
                async with proxy.client.get(proxy.url + "/metrics") as answer:
                    text = await answer.text()
        assert f'pd_proxy_prefill_tokens_waiting{{model="{MODEL}",role="prefill"}} 0.0' in text
        assert f'pd_proxy_prefill_wait_seconds{{model="{MODEL}",role="prefill"}} 0.0' in text
        assert f'pd_proxy_running_streams{{model="{MODEL}",role="decode"}} 0.0' in text
        shown = sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if "pd_proxy_requests_total{" in line)
        async with proxy.client.get(proxy.url + "/console/api/requests") as answer:
            rows = (await answer.json())["requests"]
        async with proxy.client.get(proxy.url + "/console/api/now") as answer:
            now = await answer.json()
        async with proxy.client.get(proxy.url + "/console/api/requests/" + rows[-1]["request_id"]) as answer:
            assert (await answer.json())["key"] == rows[-1]["key"]
        proxy.process.send_signal(signal.SIGTERM)
        status, log = await proxy.ended()
    assert status == 0
    served = [each["pid"] for each in log if each["event"] == "request"]
    assert len(set(served)) == 2
    assert shown == len(served) == len(rows) == now["requests"] == 40
    assert {row["worker"] for row in rows} == set(now["workers"]) == set(served)


async def test_workers_end_with_a_supervisor_that_is_killed(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    more = asyncio.Event()
    consumer.script = streams(token(" city"), more, token(" of"), DONE)
    consumer.metrics = b"vllm:kv_cache_usage_perc 0.625\n"
    async with proxy_process(etcd_server, producer, consumer, PROXY_WORKERS="2") as proxy:
        async with proxy.client.post(proxy.url + "/v1/completions", json=STREAM) as answer:
            seen = await answer.content.readuntil(b"\n\n")
            proxy.process.kill()
            await _refuses_connections(proxy.url)
            more.set()
            seen += await answer.read()
        assert without_comment(seen) == token(" city") + token(" of") + DONE
        status, log = await proxy.ended()  # its output ends with the last of them
    assert status == -signal.SIGKILL
    (served,) = [each["pid"] for each in log if each["event"] == "request"]
    # The other one may not have been up yet, and then has nothing to let finish.
    assert served in [each["pid"] for each in log if each["event"] == "shutting down"]


async def _refuses_connections(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.02)

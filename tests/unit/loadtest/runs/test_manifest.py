"""What a run says of itself: enough to repeat it, and no secret."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from loadtest.runs.manifest import Manifest, ask_target, manifest, plain_settings
from loadtest.settings import LoadTestSettings
from stack.configuration.environment import load
from tests.unit.loadtest.scripted_server import MODEL, ScriptedServer, completion

SECRET = "sk-nobody-may-see-this"


def settings(**given: Any) -> LoadTestSettings:
    return load(LoadTestSettings, **given)


def test_no_secret_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    target = "http://127.0.0.1:9"
    monkeypatch.setattr(sys, "argv", ["loadtest", "--headless", "--host", target])
    given = settings(openai_api_key=SECRET, loadtest_target=target)
    told = manifest(given)
    assert SECRET not in told.model_dump_json()
    assert SECRET not in str(plain_settings(given))
    assert told.target == target
    assert told.command == "python -m loadtest --headless --host http://127.0.0.1:9"


def test_settings_are_by_the_names_of_env(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}')
    plain = plain_settings(settings(loadtest_rate=2.5, loadtest_prompts_file=tmp_path / "prompts.jsonl"))
    assert plain["LOADTEST_RATE"] == 2.5
    assert plain["LOADTEST_PROMPTS_FILE"] == "prompts.jsonl"
    assert not {"OPENAI_API_KEY", "STACK_DIR", "LOADTEST_RUN_DIR"} & set(plain)


def test_versions_and_hardware_are_named() -> None:
    told = manifest(settings(loadtest_seed=7, loadtest_warmup_s=3.0))
    assert {"locust", "Python", "commit", "numpy"} <= set(told.versions)
    assert {"CPU", "memory"} <= set(told.hardware)
    assert (told.seed, told.warmup_s) == (7, 3.0)


def test_a_target_that_says_nothing_adds_nothing() -> None:
    given = settings(loadtest_target="http://127.0.0.1:9")
    told = manifest(given)
    before = told.model_copy(deep=True)
    ask_target(given, told)
    assert told == before


@contextmanager
def serving(answers: dict[str, Any]) -> Iterator[str]:
    """JSON by path; 404 for any other."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def asked(answers: dict[str, Any]) -> Manifest:
    with serving(answers) as target:
        given = settings(loadtest_target=target)
        told = manifest(given)
        ask_target(given, told)
    return told


def test_the_proxys_instances_are_named() -> None:
    about = {
        "model": "SmolLM2",
        "connector_version": "0.1.0",
        "outstanding": {},
        "age_s": 3.0,
        "url": "http://10.0.0.1",
    }
    instances = [
        {"instance_id": "p0", "role": "prefill", "vllm_version": "0.32.0", **about},
        {"instance_id": "d0", "role": "decode", "vllm_version": "0.31.0", **about},
    ]
    told = asked({"/instances": {"instances": instances}, "/v1/models": {"data": [{"id": "one"}, {"id": "two"}]}})
    assert told.models == ["one", "two"]
    assert told.servers == {"vLLM": ["0.31.0", "0.32.0"], "connector": ["0.1.0"]}
    assert [set(instance) for instance in told.instances] == [
        {"instance_id", "role", "model", "vllm_version", "connector_version"}
    ] * 2


def test_a_vllm_without_a_proxy_says_its_version() -> None:
    assert asked({"/version": {"version": "0.32.0"}}).servers == {"vLLM": ["0.32.0"]}


@pytest.mark.parametrize("answer", [[], "text", {"data": None}, {"data": [1, {}], "instances": [1]}])
def test_answers_of_other_servers_are_not_understood(answer: Any) -> None:
    told = asked({"/instances": answer, "/v1/models": answer, "/version": answer})
    assert (told.models, told.instances, told.servers) == ([], [], {})


def test_a_server_of_its_own_has_its_model() -> None:
    with ScriptedServer(lambda _: completion(1)).running() as server:
        given = settings(loadtest_target=server.url)
        told = manifest(given)
        ask_target(given, told)
    assert told.models == [MODEL]
    assert told.instances == []

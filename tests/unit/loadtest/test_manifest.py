"""What a run says of itself: enough to repeat it, and no secret."""

import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.manifest import ask_target, manifest, plain_settings
from loadtest.settings import LoadTestSettings
from stack.environment import load
from tests.unit.loadtest.scripted_server import MODEL, ScriptedServer, completion

SECRET = "sk-nobody-may-see-this"


def settings(**given: Any) -> LoadTestSettings:
    return load(LoadTestSettings, **given)


def test_no_secret_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    target = f"http://user:{SECRET}@127.0.0.1:9"
    monkeypatch.setattr(sys, "argv", ["loadtest", "--headless", "--host", target])
    given = settings(openai_api_key=SECRET, loadtest_target=target)
    told = manifest(given)
    assert SECRET not in told.model_dump_json()
    assert SECRET not in str(plain_settings(given))
    assert told.target == "http://127.0.0.1:9"
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


def test_a_server_of_its_own_has_its_model() -> None:
    with ScriptedServer(lambda _: completion(1)).running() as server:
        given = settings(loadtest_target=server.url)
        told = manifest(given)
        ask_target(given, told)
    assert told.models == [MODEL]
    assert told.instances == []

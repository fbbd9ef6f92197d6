import pytest

from loadtest.settings import LoadTestSettings
from stack.configuration.environment import ConfigError, load


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LoadTestSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("variables", "target"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"PROXY_PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"LOADTEST_TARGET": "http://proxy:8000/", "PROXY_PORT": "9000"}, "http://proxy:8000"),
        ({"LOADTEST_TARGET": ""}, "http://127.0.0.1:8000"),
        ({"LOADTEST_TARGET": "http://proxy:8000/v1"}, "http://proxy:8000"),
        ({"LOADTEST_TARGET": "http://proxy:8000/v1/"}, "http://proxy:8000"),
        ({"LOADTEST_TARGET": "http://proxy:8000/team/v1"}, "http://proxy:8000/team"),
        ({"LOADTEST_TARGET": "http://proxy:8000/team-v1"}, "http://proxy:8000/team-v1"),
    ],
)
def test_target(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], target: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load(LoadTestSettings).target == target


@pytest.mark.parametrize(
    ("variables", "host"),
    [
        ({}, "127.0.0.1"),
        ({"BIND_ADDRESS": "10.0.0.1"}, "10.0.0.1"),
        ({"BIND_ADDRESS": "10.0.0.1", "LISTEN_HOST": "0.0.0.0"}, "0.0.0.0"),
        ({"BIND_ADDRESS": "[::1]"}, "::1"),
        ({"BIND_ADDRESS": "localhost"}, "127.0.0.1"),
    ],
)
def test_web_host(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], host: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load(LoadTestSettings).web_host == host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOADTEST_TARGET", "proxy:8000"),
        ("LOADTEST_TARGET", "http://proxy:8000/v1?key=1"),
        ("LOADTEST_WORKLOAD", "sharegpt"),
        ("LOADTEST_INPUT_TOKENS", "0"),
        ("LOADTEST_OUTPUT_TOKENS", "many"),
        ("LOADTEST_CHAT_TURNS", "0"),
        ("LOADTEST_TRACE_TIME_SCALE", "0"),
        ("LOADTEST_TRACE_LENGTH_SCALE", "inf"),
        ("LOADTEST_TIMEOUT_S", "0"),
        ("LOCUST_PORT", "80890"),
    ],
)
def test_bad_value_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        load(LoadTestSettings)
    (line,) = raised.value.lines
    assert line.startswith(f"{name}={value!r}: ")


@pytest.mark.parametrize("name", ["LOADTEST_TARGET", "LOADTEST_TOKENIZER"])
def test_a_password_in_a_url_is_neither_sent_nor_shown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nothing would send it, and the run's files and page name the target."""
    monkeypatch.setenv(name, "http://me:hunter2@host:8000")
    with pytest.raises(ConfigError) as raised:
        load(LoadTestSettings)
    said = "expected a URL without a user and a password: a server's key belongs into OPENAI_API_KEY"
    assert raised.value.lines == [f"{name}='http://***@host:8000': {said}"]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LOADTEST_WORKLOAD": "trace"}, "LOADTEST_TRACE_FILE is unset: LOADTEST_WORKLOAD=trace replays this file"),
        (
            {"LOADTEST_WORKLOAD": "prompts"},
            "LOADTEST_PROMPTS_FILE is unset: LOADTEST_WORKLOAD=prompts sends this file's prompts",
        ),
        ({"LOADTEST_TRACE_FILE": "/nowhere/t"}, f"LOADTEST_TRACE_FILE={'/nowhere/t'!r}: expected a file, found none"),
        ({"LOADTEST_PROMPTS_FILE": "/"}, f"LOADTEST_PROMPTS_FILE={'/'!r}: expected a file, found none"),
    ],
)
def test_a_workload_has_its_file(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        load(LoadTestSettings)
    assert raised.value.lines == [said]

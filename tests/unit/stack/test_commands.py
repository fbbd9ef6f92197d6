"""The command line of `python -m stack`: which way it chooses, what it prints, what it removes."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from stack import __main__ as commands
from stack.configuration.settings import EMBEDDED_MODEL, REPOSITORY, SERVICES, StackSettings
from stack.running.compose import Compose


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    # A developer's own folders are none of these tests': `clean` would remove the environments that they run in.
    inherited = {name: value for name, value in os.environ.items() if name.lower() not in StackSettings.model_fields}
    environment = {**inherited, "STACK_ENV_FILE": os.devnull, "STACK_MODE": "processes", **variables}
    return subprocess.run(
        [sys.executable, "-m", "stack", *arguments],
        cwd="/",
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_status_and_down_without_a_stack_are_harmless(tmp_path: Path) -> None:
    status = run("status", STACK_DIR=str(tmp_path))
    down = run("down", STACK_DIR=str(tmp_path))

    assert (status.returncode, status.stdout) == (0, "not running; start with `make up`\n")
    assert down.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_logs_without_a_run_say_so(tmp_path: Path) -> None:
    logs = run("logs", "decode", STACK_DIR=str(tmp_path))

    assert (logs.returncode, logs.stderr) == (1, f"no logs in {tmp_path}/logs\n")


def test_logs_show_the_services_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "decode-0.log").write_text("a word of decode\n")
    (folder / "proxy-0.log").write_text("a word of the proxy\n")

    assert run("logs", "decode", STACK_DIR=str(tmp_path)).stdout == "a word of decode\n"
    assert "a word of the proxy" in run("logs", STACK_DIR=str(tmp_path)).stdout


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"PROXY_PORT": "http"}, "PROXY_PORT='http': "),
        ({"STACK_MODE": "podman"}, "STACK_MODE='podman': "),
        ({"ETCD_ENDPOINT": "http://root:hunter2@h:2379"}, "ETCD_ENDPOINT='http://***@h:2379': expected one plain-text"),
    ],
)
def test_a_bad_value_stops_with_one_line(tmp_path: Path, variables: dict[str, str], line: str) -> None:
    result = run("up", STACK_DIR=str(tmp_path), **variables)

    assert result.returncode == 2
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1
    assert "hunter2" not in result.stdout + result.stderr


def test_up_stops_at_a_doctors_error_before_it_makes_anything(tmp_path: Path) -> None:
    result = run("up", STACK_DIR=str(tmp_path), MOONCAKE_PROTOCOL="rmda")

    assert result.returncode == 1
    assert "error: MOONCAKE_PROTOCOL: found 'rmda'; needed 'auto', 'tcp', 'rdma' or 'nvlink_intra'" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["up.lock"]


def test_clean_removes_what_was_made_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, models = tmp_path / "state", tmp_path / "models"
    for folder in (state / "logs", state / "venv" / "proxy", models / EMBEDDED_MODEL, models / "my-own-model"):
        folder.mkdir(parents=True)
    (state / "stack.key").touch()
    (state / "notes.txt").touch()

    elsewhere = tmp_path / "elsewhere" / "proxy"
    elsewhere.mkdir(parents=True)
    monkeypatch.setenv("STACK_VENV_DIR", str(elsewhere.parent))  # of whoever runs the tests

    result = run("clean", STACK_DIR=str(state), MODEL_DIR=str(models))

    assert result.returncode == 0
    assert [path.name for path in state.iterdir()] == ["notes.txt"]
    assert [path.name for path in models.iterdir()] == ["my-own-model"]
    assert elsewhere.is_dir()


@pytest.mark.parametrize(
    ("mode", "engine_answers", "docker"),
    [("auto", True, True), ("auto", False, False), ("docker", False, True), ("processes", True, False)],
)
def test_which_way(monkeypatch: pytest.MonkeyPatch, mode: str, engine_answers: bool, docker: bool) -> None:
    monkeypatch.setattr("stack.running.compose.is_available", lambda: engine_answers)

    assert commands._uses_docker(StackSettings.model_validate({"stack_mode": mode})) is docker


def test_the_last_words_of_up_are_the_seed_documents_curl() -> None:
    text = commands.farewell(StackSettings(model="M"), 1)

    assert (
        'curl -s http://localhost:8000/v1/completions -H "Content-Type: application/json" -d \'{\n'
        '    "model": "M",\n    "prompt": "San Francisco is a",\n    "max_tokens": 1000\n  }\'' in text
    )
    assert "http://localhost:8089" in text
    assert "make down" in text


def test_up_shows_the_console_first() -> None:
    text = commands.farewell(StackSettings(model="M"), 1)

    (first, *_) = [line for line in text.splitlines() if "http://" in line]
    assert first.startswith("  Console  http://localhost:8000/   ")


def test_up_shows_a_prompt_that_is_split_and_where_to_see_it() -> None:
    text = commands.farewell(StackSettings(model="M"), 1)

    curl = text[text.index("  curl -s -D-") :]
    assert curl.startswith('  curl -s -D- http://localhost:8000/v1/completions -H "Content-Type: application/json" -d')
    printed = subprocess.run(
        ["bash", "-c", curl[: curl.index("\n\n")].replace("curl", "printf '%s\\n'", 1)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    body = json.loads("\n".join(printed[printed.index("-d") + 1 :]))
    assert body == {"model": "M", "prompt": " ".join(map(str, range(1, 301))), "max_tokens": 8}
    for header in ("x-pd-path", "x-pd-kv-bytes", "server-timing"):
        assert header in text


def test_a_baseline_promises_no_split() -> None:
    text = commands.farewell(StackSettings(compose_file="compose.yaml:compose.baseline.yaml"), 1)

    assert "San Francisco" in text
    assert "split" not in text


@pytest.mark.parametrize(
    ("bind_address", "url"),
    [
        ("::", "http://localhost:8000"),
        ("0.0.0.0", "http://localhost:8000"),
        ("::1", "http://[::1]:8000"),
        ("10.0.0.5", "http://10.0.0.5:8000"),
    ],
)
def test_what_up_prints_can_be_pasted(bind_address: str, url: str) -> None:
    text = commands.farewell(StackSettings(bind_address=bind_address), 1)

    assert f"  API      {url}   " in text
    commands_shown = [line for line in text.splitlines() if "curl" in line]
    assert [
        [word for word in shlex.split(line.removesuffix("'{")) if not word.startswith("-")][:2]
        for line in commands_shown
    ] == [["curl", f"{url}/v1/completions"]] * 2
    for line in commands_shown:
        assert "[" not in re.sub("'[^']*'", "", line), "brackets mean something to a shell"


@pytest.mark.parametrize(
    ("compose_file", "bind_address", "host"),
    [
        ("compose.yaml", "localhost", "127.0.0.1"),
        ("compose.yaml", "[::1]", "::1"),
        ("compose.yaml:compose.rdma.yaml", "::1", "[::1]"),
    ],
)
def test_compose_gets_addresses_in_the_form_that_its_files_take(
    compose_file: str, bind_address: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr("subprocess.run", lambda *_, env, **__: given.update(env) or CompletedProcess("", 0))
    Compose(StackSettings(compose_file=compose_file, bind_address=bind_address, vllm_host_ip="::1")).call("ps")

    assert given["BIND_ADDRESS"] == host
    assert given["VLLM_HOST_IP"].strip("[]") == "::1"


@pytest.mark.parametrize(
    ("compose_file", "chosen", "started"),
    [
        ("compose.yaml:compose.store.yaml", SERVICES, []),
        ("compose.yaml:compose.store.yaml", ("etcd", "prefill"), ["etcd", "prefill", "store-master", "store"]),
        ("compose.yaml:compose.store.yaml", ("etcd", "proxy"), ["etcd", "proxy"]),
        ("compose.yaml", ("etcd", "prefill"), ["etcd", "prefill"]),
    ],
    ids=["all", "beside an instance", "beside none", "without the overlay"],
)
def test_a_part_of_the_stack_has_the_store_beside_its_instances(
    compose_file: str, chosen: tuple[str, ...], started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands_run: list[list[str]] = []
    monkeypatch.setattr("stack.running.compose.build_inputs", dict)

    def run(command: list[str], **_: object) -> CompletedProcess[str]:
        commands_run.append(command)
        return CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", run)
    Compose(StackSettings(compose_file=compose_file, stack_services=chosen)).up()

    (given,) = commands_run
    assert given[given.index("--wait-timeout") + 2 :] == started


def test_a_host_without_the_proxy_promises_no_api() -> None:
    text = commands.farewell(StackSettings(stack_services=("prefill",)), 1)

    assert "Ready after 1 s: prefill." in text
    assert "http://" not in text


def test_compose_reads_the_env_file_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "other.env"
    monkeypatch.setenv("STACK_ENV_FILE", str(file))
    compose = Compose(StackSettings())

    assert compose.command("ps") == ["docker", "compose", "--project-directory", str(REPOSITORY), "ps"]
    file.touch()
    assert compose.command("ps")[4:] == ["--env-file", str(file), "ps"]


def test_a_person_is_told_where_to_look_at_what_is_observed() -> None:
    observed = StackSettings(compose_file="compose.yaml:compose.observability.yaml", prometheus_port=9999)
    prometheus = "Prometheus: http://localhost:9999 (alerts, queries)"
    assert commands.observers(observed, with_docker=False) == [prometheus]
    assert commands.observers(observed, with_docker=True) == [
        "Grafana: http://localhost:3000 (dashboards, traces)",
        prometheus,
    ]
    assert commands.observers(StackSettings(), with_docker=True) == []

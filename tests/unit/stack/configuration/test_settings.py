"""Settings of the stack: folders, derived addresses, and refusals that name the variable."""

from pathlib import Path

import pytest

from stack.configuration.environment import ConfigError, load
from stack.configuration.settings import REPOSITORY, SERVICES, StackSettings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in StackSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_folders_follow_stack_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STACK_DIR", str(tmp_path))
    settings = load(StackSettings)

    assert (settings.venvs, settings.models, settings.key_file) == (
        tmp_path / "venv",
        tmp_path / "models",
        tmp_path / "stack.key",
    )


def test_folders_can_lie_elsewhere_and_count_from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK_DIR", "state")
    monkeypatch.setenv("MODEL_DIR", "../models")
    settings = load(StackSettings)

    assert settings.stack_dir == REPOSITORY / "state"
    assert settings.models == REPOSITORY / "../models"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_DIR", "")
    monkeypatch.setenv("STACK_SERVICES", "")
    settings = load(StackSettings)

    assert settings.models == REPOSITORY / ".stack" / "models"
    assert settings.stack_services == SERVICES


@pytest.mark.parametrize(
    ("variables", "etcd", "client_host", "instance_host"),
    [
        ({}, "127.0.0.1:2379", "127.0.0.1", "127.0.0.1"),
        ({"ETCD_PORT": "3000"}, "127.0.0.1:3000", "127.0.0.1", "127.0.0.1"),
        ({"ETCD_ENDPOINT": "10.0.0.1:1"}, "10.0.0.1:1", "127.0.0.1", "127.0.0.1"),
        ({"BIND_ADDRESS": "0.0.0.0"}, "127.0.0.1:2379", "127.0.0.1", "127.0.0.1"),
        ({"BIND_ADDRESS": "::"}, "127.0.0.1:2379", "::1", "127.0.0.1"),
        ({"BIND_ADDRESS": "[::1]"}, "127.0.0.1:2379", "::1", "127.0.0.1"),
        ({"BIND_ADDRESS": "localhost"}, "127.0.0.1:2379", "127.0.0.1", "127.0.0.1"),
        ({"VLLM_HOST_IP": "::1"}, "[::1]:2379", "127.0.0.1", "::1"),
        ({"VLLM_HOST_IP": "[2001:db8::7]", "LISTEN_HOST": "::"}, "[2001:db8::7]:2379", "127.0.0.1", "::1"),
        ({"VLLM_HOST_IP": "localhost"}, "127.0.0.1:2379", "127.0.0.1", "127.0.0.1"),
        ({"ETCD_ENDPOINT": "[::1]:2379"}, "[::1]:2379", "127.0.0.1", "127.0.0.1"),
        ({"BIND_ADDRESS": "10.0.0.5"}, "127.0.0.1:2379", "10.0.0.5", "127.0.0.1"),
        ({"VLLM_HOST_IP": "10.0.0.5"}, "10.0.0.5:2379", "127.0.0.1", "10.0.0.5"),
        ({"VLLM_HOST_IP": "10.0.0.5", "LISTEN_HOST": "0.0.0.0"}, "10.0.0.5:2379", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_addresses(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], etcd: str, client_host: str, instance_host: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = load(StackSettings)

    assert (settings.etcd, settings.client_host, settings.instance_host) == (etcd, client_host, instance_host)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("STACK_SERVICES", "etcd,proxi", "expected a comma-separated choice of etcd, prefill"),
        ("STACK_DIR", "/" + "x" * 90, "expected a path of at most"),
        ("STACK_DIR", "/tmp/100%", "without %"),
        ("STACK_MODE", "podman", "'auto', 'docker' or 'processes'"),
        ("PROXY_PORT", "70000", "less than or equal to 65535"),
        ("PREFILL_REPLICAS", "-1", "greater than or equal to 0"),
        ("BIND_ADDRESS", "http://10.0.0.1", "expected an IP address or a host name, without scheme and port"),
        ("VLLM_HOST_IP", "10.0.0.1:8100", "expected an IP address or a host name, without scheme and port"),
        ("VLLM_HOST_IP", "0.0.0.0", "expected the one address at which others reach this host"),
        ("VLLM_HOST_IP", "::", "expected the one address at which others reach this host"),
        ("VLLM_HOST_IP", "a..b", "expected an IP address or the name of a host, found none of that name"),
        ("LISTEN_HOST", "fe80::1%eth0", "expected an address without a zone"),
        ("ETCD_ENDPOINT", "127.0.0.1:2379,127.0.0.1:22379", "expected one plain-text endpoint"),
        ("ETCD_ENDPOINT", "https://127.0.0.1:2379", "expected one plain-text endpoint"),
    ],
)
def test_a_refusal_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError) as refused:
        load(StackSettings)

    assert len(refused.value.lines) == 1
    assert refused.value.lines[0].startswith(f"{name}=")
    assert complaint in refused.value.lines[0]


@pytest.mark.parametrize(
    ("compose_file", "uses_gpu"),
    [("compose.yaml", False), ("compose.yaml:compose.gpu.yaml", True), ("./compose.yaml:./compose.gpu.yaml", True)],
)
def test_the_gpu_overlay_chooses_the_cuda_builds(
    monkeypatch: pytest.MonkeyPatch, compose_file: str, uses_gpu: bool
) -> None:
    monkeypatch.setenv("COMPOSE_FILE", compose_file)

    assert load(StackSettings).uses_gpu is uses_gpu

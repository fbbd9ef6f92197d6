"""The doctor's look at a real machine: listeners, settings of every part, hardware that is asked for."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stack.configuration.settings import REPOSITORY, StackSettings
from stack.diagnosis.facts import bad_settings, gather, settings_classes


@pytest.fixture(autouse=True)
def _no_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK_ENV_FILE", os.devnull)


def test_every_part_declares_settings() -> None:
    assert {settings.__module__ for settings in settings_classes()} == {
        "stack.configuration.settings",
        "stack.instances.settings",
        "proxy.settings",
        "loadtest.settings",
    }


def test_bad_values_of_any_part_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONCAKE_PROTOCOL", "rmda")
    monkeypatch.setenv("LOADTEST_INPUT_TOKENS", "0")
    monkeypatch.setenv("PROXY_LOG_LEVEL", "loud")
    monkeypatch.setenv("PREFILL_REPLICAS", "many")

    names = {line.partition("=")[0] for line in bad_settings()}
    assert names == {"MOONCAKE_PROTOCOL", "LOADTEST_INPUT_TOKENS", "PROXY_LOG_LEVEL", "PREFILL_REPLICAS"}


def test_no_line_shows_the_password_of_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of no variable of any part, whatever else is wrong with it."""
    variables = {name.upper() for settings in settings_classes() for name in settings.model_fields}
    for value in ("http://me:hunter2@example.org:1", "me:hunter2@example.org", "ftp://me:hun://ter2@a:1,http://b/?c"):
        for name in variables:
            monkeypatch.setenv(name, value)
        lines = bad_settings()
        told = {line.partition("=")[0] for line in lines}
        assert {"ETCD_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "LOADTEST_TARGET", "LOADTEST_TOKENIZER"} <= told
        assert "ter2" not in "\n".join(lines)


def test_the_key_that_the_first_start_makes_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STACK_KEY", raising=False)
    monkeypatch.setenv("STACK_KEY_FILE", str(tmp_path / "not yet"))

    assert bad_settings() == ()


def test_the_file_for_mooncake_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mooncake.json"
    urls = {"prefill_url": "127.0.0.1:13003", "decode_url": "127.0.0.1:13503"}
    monkeypatch.setenv("MOONCAKE_CONFIG_PATH", str(file))

    file.write_text(json.dumps({**urls, "metadata_server": "etcd://127.0.0.1:2379", "local_hostname": "h"}))
    assert bad_settings() == ()
    facts = gather(StackSettings(stack_dir=tmp_path), with_docker=False)
    assert facts.keys_without_effect == ("local_hostname",)

    file.write_text(json.dumps({**urls, "metadata_server": "P2PHANDSHAKE"}))
    (line,) = bad_settings()
    assert line.startswith(f"MOONCAKE_CONFIG_PATH='{file}': metadata_server='P2PHANDSHAKE': expected etcd's host:port")


def test_each_data_parallel_engine_needs_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECODE_VLLM_EXTRA_ARGS", "--data-parallel-size 3")
    settings = StackSettings(stack_dir=tmp_path, prefill_replicas=2, decode_replicas=2)
    assert gather(settings, with_docker=False).instances == 2 + 2 * 3
    monkeypatch.setenv("DECODE_VLLM_EXTRA_ARGS", "--data-parallel-size three")
    assert gather(settings, with_docker=False).instances == 2 + 2
    assert [line.partition("=")[0] for line in bad_settings()] == ["DECODE_VLLM_EXTRA_ARGS"]


HYBRID = "--data-parallel-size 4 --data-parallel-size-local 2 --data-parallel-start-rank 2"


@pytest.mark.parametrize(
    ("variables", "settings", "line"),
    [
        (
            {"PREFILL_VLLM_EXTRA_ARGS": HYBRID},
            {"prefill_replicas": 2},
            f"PREFILL_VLLM_EXTRA_ARGS='{HYBRID}': expected one server here that is rank 2 of 4, not 2: "
            "set PREFILL_REPLICAS to 1, and start those of other ranks with arguments of their own",
        ),
        (
            {"VLLM_EXTRA_ARGS": HYBRID},
            {"compose_file": "compose.yaml:compose.baseline.yaml"},
            f"VLLM_EXTRA_ARGS='{HYBRID}': expected one server here that is rank 2 of 4, not 2: "
            "set the replicas to 1, and start those of other ranks with arguments of their own",
        ),
        ({"PREFILL_VLLM_EXTRA_ARGS": HYBRID}, {"decode_replicas": 2}, ""),
        ({"PREFILL_VLLM_EXTRA_ARGS": HYBRID}, {"prefill_replicas": 2, "stack_services": ("decode",)}, ""),
        ({"PREFILL_VLLM_EXTRA_ARGS": "--data-parallel-size 4"}, {"prefill_replicas": 2}, ""),
    ],
    ids=["replicas", "baseline", "the other role's", "not started here", "all ranks in each server"],
)
def test_several_servers_cannot_be_the_same_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], settings: dict[str, Any], line: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    facts = gather(StackSettings(stack_dir=tmp_path, **settings), with_docker=False)
    assert facts.bad_settings == ((line,) if line else ())


@pytest.mark.parametrize(
    ("protocol", "compose_file", "wanted"),
    [
        ("tcp", "compose.yaml", False),
        ("rdma", "compose.yaml", True),
        ("tcp", "compose.yaml:compose.rdma.yaml", True),
        ("rdma", "compose.yaml:compose.baseline.yaml", False),
    ],
)
def test_rdma_is_wanted_by_protocol_or_overlay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, compose_file: str, wanted: bool
) -> None:
    monkeypatch.setenv("MOONCAKE_PROTOCOL", protocol)

    facts = gather(StackSettings(stack_dir=tmp_path, compose_file=compose_file), with_docker=False)

    assert facts.wants_rdma is wanted
    assert not facts.missing_overlays


def test_an_overlay_that_does_not_exist(tmp_path: Path) -> None:
    assert not (REPOSITORY / "compose.tpu.yaml").exists()

    facts = gather(StackSettings(stack_dir=tmp_path, compose_file="compose.yaml:compose.tpu.yaml"), with_docker=False)

    assert facts.missing_overlays == ("compose.tpu.yaml",)

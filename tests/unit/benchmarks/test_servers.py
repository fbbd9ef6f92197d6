"""Commands and environments: what servers have in common, and where they differ."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from benchmarks.connector.options import parse
from benchmarks.connector.topology import servers
from benchmarks.connector.topology.servers import Blueprint, Place
from benchmarks.errors import CannotStart
from connector.instance import vllm_command
from stack.configuration.environment import load
from stack.configuration.settings import REPOSITORY
from stack.instances.settings import LauncherSettings

KEY = "0123456789abcdef"


@pytest.fixture(params=["0.32.0", "0.32.0+cpu"], ids=["gpu", "cpu"])
def blueprint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Blueprint:
    monkeypatch.setattr(vllm_command, "vllm_version", lambda: request.param)
    servers.forget_settings_of_the_shell()
    profile = "cpu" if request.param.endswith("+cpu") else "gpu"
    options = parse(["latency", "--profile", profile, "--compilation-config", '{"mode": 0}'])
    return servers.blueprint(options, Path("/model"), "127.0.0.1:2379", KEY)


def without_own_words(command: tuple[str, ...]) -> list[str]:
    words = list(command)
    for own in ("--port", "--kv-transfer-config", "--scheduler-cls"):
        if own in words:
            at = words.index(own)
            del words[at : at + 2]
    return words


def test_servers_differ_in_their_connector_only(blueprint: Blueprint) -> None:
    single = blueprint.single("single", 21000, Place())
    upstream = blueprint.upstream("upstream", "producer", 21016, 21032, "tcp", Place())
    assert "--kv-transfer-config" not in single.command
    assert "--enable-prompt-tokens-details" in single.command  # tells whether the KV cache came from the producer
    assert without_own_words(upstream.command) == without_own_words(single.command)
    added = {"VLLM_MOONCAKE_BOOTSTRAP_PORT": "21032", "MC_FORCE_TCP": "1"}
    assert upstream.environment == {**single.environment, **added}


def test_our_launcher_starts_vllm_with_the_flags_of_the_others(blueprint: Blueprint) -> None:
    single = blueprint.single("single", 21000, Place())
    ours = blueprint.ours("ours", "consumer", 21016, 21032, Place(), {"MOONCAKE_PROTOCOL": "nvlink_intra"})
    assert ours.command == (sys.executable, "-m", "connector.instance.launcher")
    ours_settings = {name.lower(): value for name, value in ours.environment.items()}
    known = {name: ours_settings[name] for name in LauncherSettings.model_fields if name in ours_settings}
    settings = load(LauncherSettings, **known)
    assert settings.role == "decode"
    assert settings.mooncake.protocol == "nvlink_intra"
    started = vllm_command.command(settings, "consumer-1")
    assert without_own_words(tuple(started)) == without_own_words(single.command)


def test_upstream_takes_its_own_connector_or_on_a_cpu_the_one_that_starts_there(blueprint: Blueprint) -> None:
    command = blueprint.upstream("upstream", "consumer", 21016, 21032, "nvlink_intra", Place()).command
    config = json.loads(command[command.index("--kv-transfer-config") + 1])
    assert config["kv_connector"] == "MooncakeConnector"
    assert config["kv_role"] == "kv_consumer"
    assert config["kv_connector_extra_config"] == {"mooncake_protocol": "nvlink_intra"}
    on_cpu = "benchmarks.connector.upstream_on_cpu" if not vllm_command.on_gpu() else None
    assert config.get("kv_connector_module_path") == on_cpu


def test_a_place_says_where_a_server_runs(blueprint: Blueprint) -> None:
    place = Place("10.77.0.2", gpus="1,0", prefix=("nsenter", "--net=/proc/1/fd/5"))
    for launch in (blueprint.single("single", 21000, place), blueprint.ours("o", "producer", 21000, 1, place, {})):
        assert launch.command[:3] == ("nsenter", "--net=/proc/1/fd/5", sys.executable)
        assert launch.environment["CUDA_VISIBLE_DEVICES"] == "1,0"
        assert launch.environment["VLLM_HOST_IP"] == "10.77.0.2"


def test_what_the_shell_says_about_the_stack_changes_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"KV_STREAMING": "chunk", "MC_NUM_TCP_IO_THREADS": "1", "MY_MC_": "stays"}.items():
        monkeypatch.setenv(name, value)
    servers.forget_settings_of_the_shell()
    assert "KV_STREAMING" not in os.environ
    assert "MC_NUM_TCP_IO_THREADS" not in os.environ
    assert os.environ["MY_MC_"] == "stays"


@pytest.mark.parametrize("place", ["connector/launcher.py", "connector/instance/launcher.py"])
def test_a_pair_of_another_checkout_runs_its_code(blueprint: Blueprint, tmp_path: Path, place: str) -> None:
    launcher = tmp_path / place
    launcher.parent.mkdir(parents=True)
    launcher.touch()
    launch = blueprint.of(tmp_path).ours("before", "producer", 21000, 21016, Place(), {})
    assert launch.command[-1] == place.removesuffix(".py").replace("/", ".")
    assert launch.environment["PYTHONPATH"].split(":")[0] == str(tmp_path)
    assert launch.folder == tmp_path
    assert blueprint.ours("ours", "producer", 21000, 21016, Place(), {}).folder == REPOSITORY


@pytest.mark.parametrize("knows_shapes", [False, True])
def test_made_up_weights_are_asked_for_where_the_other_checkout_can_make_them(
    tmp_path: Path, knows_shapes: bool
) -> None:
    (tmp_path / "connector").mkdir()
    (tmp_path / "connector/launcher.py").touch()
    if knows_shapes:
        (tmp_path / "benchmarks/model_shapes").mkdir(parents=True)
    ours = servers.blueprint(parse(["latency", "--profile", "gpu"]), Path("/model"), "127.0.0.1:2379", KEY)
    words = ours.of(tmp_path).common["VLLM_EXTRA_ARGS"]
    assert "--load-format dummy" in words
    assert ("--worker-extension-cls" in words) is knows_shapes
    assert "--worker-extension-cls" in ours.common["VLLM_EXTRA_ARGS"]


def test_a_folder_that_is_no_checkout_is_named(blueprint: Blueprint, tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=re.escape(f"--before={str(tmp_path)!r}: expected a checkout")):
        blueprint.of(tmp_path)

"""Environments are made from their locks by the real uv, here from empty or unusable locks: no network."""

import os
import subprocess
from pathlib import Path

import pytest

from stack.configuration.settings import REPOSITORY, StackSettings
from stack.install import InstallError, install, is_current
from stack.installation.environments import LOADTEST, PROXY, TESTS, VLLM_CPU, VLLM_GPU, Environment, needed_by


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackSettings:
    monkeypatch.setenv("UV_OFFLINE", "1")
    return StackSettings(stack_dir=tmp_path / "state with blank")


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    lock = tmp_path / "requirements.lock"
    lock.write_text("# nothing\n")
    return Environment("small", lock, disk_mib=1)


def test_an_environment_is_made_once(
    settings: StackSettings, environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not is_current(environment, settings)

    install([environment], settings)

    assert environment.python(settings).exists()
    assert is_current(environment, settings)
    assert "[1/1] environment small: ready" in capsys.readouterr().out
    install([environment], settings)
    assert capsys.readouterr().out == ""


def test_a_changed_lock_makes_it_anew(settings: StackSettings, environment: Environment) -> None:
    install([environment], settings)
    stray = environment.folder(settings) / "stray"
    stray.touch()
    environment.lock.write_text("# nothing, in other words\n")

    assert not is_current(environment, settings)
    install([environment], settings)

    assert is_current(environment, settings)
    assert not stray.exists()


def test_a_failure_names_environment_and_lock_and_leaves_no_stamp(
    settings: StackSettings, environment: Environment
) -> None:
    environment.lock.write_text("no-such-package-of-this-stack==1.0 --hash=sha256:" + "0" * 64 + "\n")

    with pytest.raises(InstallError, match=r"environment small: .*requirements\.lock"):
        install([environment], settings)

    assert not is_current(environment, settings)


@pytest.mark.parametrize(
    ("services", "compose_file", "expected"),
    [
        (("etcd",), "compose.yaml", ()),
        (("etcd", "decode"), "compose.yaml", (VLLM_CPU,)),
        (("prefill", "proxy", "loadtest"), "compose.yaml:compose.gpu.yaml", (VLLM_GPU, PROXY, LOADTEST)),
    ],
)
def test_services_name_their_environments(
    services: tuple[str, ...], compose_file: str, expected: tuple[Environment, ...]
) -> None:
    assert needed_by(services, StackSettings(compose_file=compose_file)) == expected


def test_every_lock_exists_and_carries_hashes() -> None:
    for environment in (VLLM_CPU, VLLM_GPU, PROXY, LOADTEST, TESTS):
        lines = environment.lock.read_text().splitlines()
        pins = [line for line in lines if line and not line.startswith((" ", "#"))]
        assert pins
        assert all("==" in pin and pin.endswith("\\") for pin in pins), environment.lock
        assert "--hash=sha256:" in environment.lock.read_text()


@pytest.mark.parametrize(("target", "environment"), [("profile", "vllm"), ("bench", "loadtest"), ("lint", "tests")])
def test_make_finds_an_environment_where_no_other_has_been_made(target: str, environment: str, tmp_path: Path) -> None:
    """`make -n` prints what it would run. A folder that is not there yet has no parent to go back to."""
    variables = {"PATH": os.environ["PATH"], "STACK_ENV_FILE": os.devnull, "STACK_VENV_DIR": str(tmp_path)}
    told = subprocess.run(
        ["make", "-n", target], cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=60, check=True
    )

    assert f'"{tmp_path}/{environment}/bin/python" -m' in told.stdout

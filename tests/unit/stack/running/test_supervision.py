"""supervisord.conf says what we promise: who restarts, how a stop goes, how large a log may become."""

import configparser
import shlex
from pathlib import Path

import pytest

from stack.configuration.settings import StackSettings
from stack.running.service import Service
from stack.running.services import services
from stack.running.supervision import configuration


def parsed(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    return parser


def program(settings: StackSettings, name: str) -> configparser.SectionProxy:
    text = configuration(services(settings), settings.stack_dir / "run", settings.stack_dir / "logs")
    return parsed(text)[f"program:{name}"]


@pytest.fixture
def settings(tmp_path: Path) -> StackSettings:
    return StackSettings(stack_dir=tmp_path / "a folder", prefill_replicas=2, shutdown_grace_s=7)


def test_replicas_differ_by_their_index(settings: StackSettings) -> None:
    prefill = program(settings, "prefill")

    assert prefill["numprocs"] == "2"
    assert prefill["process_name"] == "%(program_name)s-%(process_num)d"
    assert 'INSTANCE_INDEX="%(process_num)d"' in prefill["environment"]
    assert 'VLLM_DISTRIBUTED_KV_ROLE="producer"' in prefill["environment"]


def test_a_service_restarts_drains_on_its_own_and_dies_with_its_group(settings: StackSettings) -> None:
    decode = program(settings, "decode")

    assert decode["autorestart"] == "true"
    assert decode["stopasgroup"] == "false"
    assert decode["killasgroup"] == "true"
    assert int(decode["stopwaitsecs"]) > 7


def test_a_service_ends_with_its_supervisor(settings: StackSettings) -> None:
    assert shlex.split(program(settings, "proxy")["command"])[:4] == ["setpriv", "--pdeathsig", "TERM", "--"]


def test_logs_are_bounded(settings: StackSettings) -> None:
    etcd = program(settings, "etcd")

    assert (etcd["stdout_logfile_maxbytes"], etcd["stdout_logfile_backups"]) == ("10MB", "2")
    assert etcd["stdout_logfile"] == f"{settings.stack_dir}/logs/%(program_name)s-%(process_num)d.log"


def test_words_with_blanks_and_per_cent_signs_stay_whole(tmp_path: Path) -> None:
    service = Service("odd", ("/a folder/python", "-c", "100%"), (1,), "PORT", "/")
    command = parsed(configuration([service], tmp_path, tmp_path))["program:odd"]["command"]

    assert shlex.split(command)[4:] == ["/a folder/python", "-c", "100%%"]  # supervisord makes one % of two


def test_no_secret_is_written_down(settings: StackSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-this-test")
    monkeypatch.setenv("STACK_KEY", "key-secret-of-this-test")

    text = configuration(services(settings), settings.stack_dir, settings.stack_dir)

    assert "secret-of-this-test" not in text

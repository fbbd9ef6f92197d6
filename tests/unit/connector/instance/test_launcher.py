"""The launcher as a process, with a scripted server in place of vLLM and a real etcd."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from connector.instance import launcher as real_launcher
from connector.telling.transfer_facts import PIPE_VARIABLE
from stack import etcd
from stack.etcd.protobuf_choice import PROTOBUF_CHOICE
from stack.instances.record import PREFIX, Adapter, Instance
from stack.instances.settings import WITHOUT_EFFECT, LauncherSettings
from tests.etcd_process import EtcdProcess
from tests.real_stack import FOREIGN_VARIABLES
from tests.unit.connector.fakes import LIMIT_S, until

PROGRAM = Path(__file__).with_name("scripted_launcher.py")
REAL = ("-m", "connector.instance.launcher")
ROOT = Path(__file__).parents[4]


class Launcher:
    def __init__(self, server: EtcdProcess, folder: Path, program: Sequence[str], variables: dict[str, str]) -> None:
        self._server = server
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        ours = {name.upper() for name in LauncherSettings.model_fields} | set(WITHOUT_EFFECT)
        environment = {name: value for name, value in os.environ.items() if name not in ours} | {
            "VLLM_DISTRIBUTED_KV_ROLE": "producer",
            "VLLM_HOST_IP": "127.0.0.1",
            "PREFILL_PORT": str(self.port),
            "AGGREGATED_PORT": str(self.port),
            "ETCD_ENDPOINT": server.endpoint,
            "STACK_KEY": "0123456789abcdef",
            "SERVED_MODEL_NAME": "the-model",
            "LEASE_TTL_S": "2",
            "SHUTDOWN_GRACE_S": "600",
            "PYTHONPATH": str(ROOT),
        }
        self._log = folder / "launcher.log"
        with self._log.open("wb") as log:
            command = [sys.executable, *program]
            self.process = subprocess.Popen(command, env=environment | variables, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def records(self) -> list[Instance]:
        with etcd.connect(self._server.endpoint) as client:
            found = [Instance.model_validate_json(value) for value, _ in client.get_prefix(PREFIX)]
        return [record for record in found if record.url.endswith(f":{self.port}")]

    def until_registered(self) -> Instance:
        until(lambda: self.process.poll() is not None or bool(self.records()))
        (record,) = self.records()
        return record

    def until_gone(self) -> None:
        until(lambda: not self.records())

    def until_logged(self, text: str) -> None:
        until(lambda: text in self.log)

    def say(self, request: str) -> None:
        """Retried until the server is up: it listens some time after the launcher has started."""

        def said() -> bool:
            url = f"http://127.0.0.1:{self.port}/{request}"
            try:
                urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=LIMIT_S).close()
            except urllib.error.URLError as error:
                if isinstance(error.reason, ConnectionRefusedError):
                    return False
                raise
            return True

        until(said)

    def end_vllm(self, code: int) -> None:
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            self.say(f"exit?code={code}")

    def vllm(self) -> psutil.Process:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/pid", timeout=LIMIT_S) as answer:
            return psutil.Process(int(answer.read()))

    def wait(self) -> int:
        return self.process.wait(LIMIT_S)


@pytest.fixture(scope="module")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    server = EtcdProcess(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def launch(shared_etcd: EtcdProcess, tmp_path: Path) -> Iterator[Callable[..., Launcher]]:
    launched: list[Launcher] = []

    def make(program: Sequence[str] = (str(PROGRAM),), **variables: str) -> Launcher:
        launched.append(Launcher(shared_etcd, tmp_path, program, variables))
        return launched[-1]

    yield make
    for launcher in launched:
        launcher.process.kill()
        launcher.process.wait()


Launch = Callable[..., Launcher]


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_it_registers_only_once_vllm_is_healthy(launch: Launch) -> None:
    launcher = launch(VLLM_PORT="1234")
    record = launcher.until_registered()
    assert launcher.log.index("listening") < launcher.log.index("vLLM is healthy") < launcher.log.index("registered ")
    assert "VLLM_PORT has no effect" in launcher.log
    assert (record.role, record.url) == ("prefill", f"http://127.0.0.1:{launcher.port}")
    assert (record.served_models, record.adapters) == (("the-model",), ())
    assert record.kv_transfer["engine_id"] == record.instance_id
    assert record.kv_transfer["control"] == ["tcp://127.0.0.1:13003"]
    assert PIPE_VARIABLE in launcher.vllm().environ()


def test_what_the_shell_has_for_other_programs_changes_nothing(launch: Launch) -> None:
    launcher = launch(**FOREIGN_VARIABLES)
    launcher.until_registered()
    given = launcher.vllm().environ()
    assert given["https_proxy"] == FOREIGN_VARIABLES["https_proxy"]  # for vLLM's way to a hub
    assert given["no_proxy"] == given["NO_PROXY"] == "127.0.0.1"
    assert PROTOBUF_CHOICE not in given
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.wait() == 0
    assert "/metrics does not answer" not in launcher.log


def test_an_aggregated_server_registers_without_anything_of_a_transfer(launch: Launch, tmp_path: Path) -> None:
    no_key = {"STACK_KEY": "", "STACK_KEY_FILE": str(tmp_path / "no.key")}
    launcher = launch(VLLM_DISTRIBUTED_KV_ROLE="aggregated", MOONCAKE_PROTOCOL="rdma", **no_key)
    record = launcher.until_registered()
    assert record.key == f"{PREFIX}aggregated/{record.instance_id}"
    assert (record.role, record.kv_transfer) == ("aggregated", {})
    assert PIPE_VARIABLE not in launcher.vllm().environ()


def test_a_server_with_several_engines_has_one_record_that_lists_them(launch: Launch) -> None:
    record = launch(VLLM_EXTRA_ARGS="--data-parallel-size 2").until_registered()
    assert record.kv_transfer == {}
    assert [engine.kv_transfer["engine_id"] for engine in record.engines] == [
        f"{record.instance_id}_dp0",
        f"{record.instance_id}_dp1",
    ]


def test_addresses_of_ipv6_stand_in_brackets_in_its_record(launch: Launch) -> None:
    """The scripted server listens on 127.0.0.1 alone."""
    launcher = launch(VLLM_HOST_IP="::1", LISTEN_HOST="127.0.0.1")
    record = launcher.until_registered()
    assert record.url == f"http://[::1]:{launcher.port}"
    assert record.kv_transfer["control"] == ["tcp://[::1]:13003"]
    # Part of a segment's name, where Mooncake would look for a port behind a colon.
    assert re.fullmatch(rf"prefill-__1-{launcher.port}-[0-9a-f]{{8}}", record.instance_id)


def test_it_leaves_etcd_while_vllm_is_ill(launch: Launch) -> None:
    launcher = launch()
    first = launcher.until_registered()
    launcher.say("set?health=503")
    launcher.until_gone()
    launcher.say("set?health=200")
    assert launcher.until_registered() == first


def test_its_record_has_what_vllm_says_of_its_model(launch: Launch) -> None:
    """MAX_MODEL_LEN says 4096, but vLLM's own arguments may say otherwise."""
    record = launch().until_registered()
    assert (record.served_models, record.max_model_len) == (("the-model",), 2048)
    (card,) = record.models
    assert (card["id"], card["root"], card["max_model_len"]) == ("the-model", "/the-model", 2048)
    assert [each["organization"] for each in card["permission"]] == ["*"]


def test_its_record_follows_the_adapters_that_vllm_loads_and_unloads(launch: Launch) -> None:
    """Without having been ill, and as the same instance; what is equal is not written again."""
    launcher = launch()
    first = launcher.until_registered()
    launcher.say("set?models=the-model,extra:the-model")
    until(lambda: launcher.until_registered() != first)
    (record,) = launcher.records()
    assert (record.instance_id, record.served_models) == (first.instance_id, ("the-model", "extra"))
    assert record.adapters == (Adapter(id="extra", root="/extra", parent="the-model", identity="/extra"),)
    assert [card["parent"] for card in record.models] == [None, "the-model"]
    launcher.say("set?models=the-model")
    until(lambda: launcher.records() == [first])
    assert launcher.log.count("serves the-model, extra") == launcher.log.count(" serves the-model\n") == 1
    assert "leaving etcd" not in launcher.log
    assert launcher.log.count("registered ") == 1


def test_a_model_that_cannot_be_read_is_one_line_and_nothing_starts(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    launcher = launch(MODEL=str(tmp_path))
    assert launcher.wait() == 2
    (line,) = launcher.log.splitlines()
    assert line.startswith(f"MODEL='{tmp_path}': ")
    assert "model.safetensors" in line


def test_a_chat_template_with_the_time_of_day_is_warned_of(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text('{{ strftime_now("%H:%M:%S.%f") }}')
    launcher = launch(MODEL=str(tmp_path))
    launcher.until_registered()
    assert "the chat template prints the time (strftime_now('%H:%M:%S.%f'))" in launcher.log


def test_a_server_too_busy_to_answer_stays_in_etcd_for_a_while(launch: Launch) -> None:
    """A silence of three checks is longer than its lease."""
    launcher = launch()
    first = launcher.until_registered()
    launcher.say("set?health=none")
    until(lambda: launcher.log.count("no answer to /health") == 3)
    assert launcher.records() == [first]
    launcher.until_gone()
    assert "leaving etcd" in launcher.log
    launcher.say("set?health=200")
    assert launcher.until_registered() == first


def test_on_sigterm_it_leaves_etcd_then_waits_for_requests_then_stops_vllm(launch: Launch) -> None:
    launcher = launch()
    launcher.until_registered()
    launcher.say("set?running=1&waiting=1")
    launcher.process.send_signal(signal.SIGTERM)
    launcher.until_logged("waiting for 2 requests to finish")
    assert launcher.records() == []
    assert "got SIGTERM\n" not in launcher.log.replace("launcher: got SIGTERM\n", "")
    launcher.say("set?running=0&waiting=1")
    launcher.until_logged("waiting for 1 requests to finish")
    launcher.say("set?waiting=0")
    assert launcher.wait() == 0
    assert launcher.log.endswith("\ngot SIGTERM\n")


def test_a_request_that_comes_after_the_first_look_is_waited_for(launch: Launch) -> None:
    """A proxy sent it before it heard that the instance has left etcd."""
    launcher = launch()
    launcher.until_registered()
    launcher.say("set?running_next=1")
    launcher.process.send_signal(signal.SIGTERM)
    launcher.until_logged("waiting for 1 requests to finish")
    launcher.say("set?running=0")
    assert launcher.wait() == 0
    assert launcher.log.endswith("\ngot SIGTERM\n")


def test_a_server_too_busy_to_say_how_many_requests_run_is_not_idle(launch: Launch) -> None:
    launcher = launch()
    launcher.until_registered()
    launcher.say("set?running=1&metrics=0")
    launcher.process.send_signal(signal.SIGTERM)
    launcher.until_logged("/metrics does not answer")
    launcher.say("set?metrics=200")
    launcher.until_logged("waiting for 1 requests to finish")
    launcher.say("set?running=0")
    assert launcher.wait() == 0


def test_the_grace_period_bounds_the_wait(launch: Launch) -> None:
    launcher = launch(SHUTDOWN_GRACE_S="0.1")
    launcher.until_registered()
    launcher.say("set?running=1")
    launcher.process.send_signal(signal.SIGINT)
    assert launcher.wait() == 0
    assert "stopping with requests unfinished" in launcher.log


def test_a_server_that_is_still_starting_is_stopped_at_once(launch: Launch) -> None:
    """There is nothing to drain, however long the grace period."""
    launcher = launch()
    launcher.say("set?health=503&metrics=0")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.wait() == 0
    assert "registered" not in launcher.log


def test_a_server_that_ignores_sigterm_is_killed(launch: Launch) -> None:
    launcher = launch()
    launcher.until_registered()
    vllm = launcher.vllm()
    launcher.say("set?sigterm=ignored")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.wait() == 0
    assert "killing it" in launcher.log
    assert is_gone(vllm)


def test_when_vllm_ends_by_itself_its_code_is_the_launchers(launch: Launch) -> None:
    launcher = launch()
    launcher.until_registered()
    launcher.end_vllm(7)
    assert launcher.wait() == 7
    assert "vLLM ended by itself with code 7" in launcher.log
    assert launcher.records() == []


def test_when_vllm_is_killed_the_code_is_a_shells(launch: Launch) -> None:
    launcher = launch()
    launcher.until_registered()
    launcher.vllm().kill()
    assert launcher.wait() == 128 + signal.SIGKILL


def test_the_end_of_vllm_is_not_left_to_the_next_check() -> None:
    """Which would be an hour later here: its record would stay in etcd until then."""
    vllm = subprocess.Popen(["sleep", "600"])
    over = threading.Event()
    telling = threading.Thread(target=real_launcher._tell_of_end, args=(vllm.pid, over))
    telling.start()
    settings: Any = SimpleNamespace(listen_host="127.0.0.1", port=1, openai_api_key="", lease_ttl_s=3 * 3600)
    unused: Any = None
    watching = threading.Thread(target=real_launcher._watch, args=(vllm, settings, unused, over), daemon=True)
    watching.start()
    assert not over.wait(0.1)
    vllm.kill()
    watching.join(LIMIT_S)
    assert not watching.is_alive()
    telling.join()
    assert vllm.wait(LIMIT_S) == -signal.SIGKILL
    real_launcher._tell_of_end(vllm.pid, over)  # has been waited for: no error


def test_a_killed_launcher_takes_vllm_with_it(launch: Launch) -> None:
    launcher = launch()
    launcher.until_registered()
    vllm = launcher.vllm()
    launcher.process.kill()
    until(lambda: is_gone(vllm))
    launcher.until_gone()


def test_a_bad_variable_is_one_line_and_nothing_starts(launch: Launch) -> None:
    launcher = launch(MOONCAKE_PROTOCOL="rmda")
    assert launcher.wait() == 2
    (line,) = launcher.log.splitlines()
    assert line.startswith("MOONCAKE_PROTOCOL='rmda': ")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"VLLM_HOST_IP": "192.0.2.7"},
            "VLLM_HOST_IP='192.0.2.7': expected an address to listen on; this machine has no such address",
        ),
        (
            {"ETCD_ENDPOINT": "127.0.0.1:2379,127.0.0.1:22379"},
            "ETCD_ENDPOINT='127.0.0.1:2379,127.0.0.1:22379': expected one plain-text endpoint, host:port, "
            "e.g. 127.0.0.1:2379 or [::1]:2379; found 2, of which `etcd gateway` makes one",
        ),
    ],
    ids=["another machine's address", "two etcds"],
)
def test_an_address_that_cannot_be_used_is_one_line_and_nothing_starts(
    launch: Launch, variables: dict[str, str], line: str
) -> None:
    launcher = launch(**variables)
    assert launcher.wait() == 2
    assert launcher.log.splitlines() == [line]


def test_a_transport_that_nobody_knows_is_one_line_although_mooncake_takes_it(launch: Launch, tmp_path: Path) -> None:
    """In both places where it can be said, to the launcher as it is started for real."""
    file = tmp_path / "mooncake.json"
    addresses = {"prefill_url": "h:13003", "decode_url": "h:13503", "metadata_server": "h:2379"}
    file.write_text(json.dumps({**addresses, "protocol": "bogus"}))
    expected = "Input should be 'auto', 'tcp', 'rdma' or 'nvlink_intra'"
    for variables, line in (
        ({"MOONCAKE_PROTOCOL": "bogus"}, f"MOONCAKE_PROTOCOL='bogus': {expected}"),
        ({"MOONCAKE_CONFIG_PATH": str(file)}, f"MOONCAKE_CONFIG_PATH='{file}': protocol='bogus': {expected}"),
    ):
        launcher = launch(REAL, **variables)
        assert launcher.wait() == 2
        assert launcher.log.splitlines() == [line]


def test_a_transport_that_this_machine_does_not_have_is_one_line_and_nothing_starts(launch: Launch) -> None:
    launcher = launch(MOONCAKE_PROTOCOL="rdma", MOONCAKE_DEVICE_NAME="no_such_device")
    assert launcher.wait() == 2
    (line,) = launcher.log.splitlines()
    assert re.match(r"MOONCAKE_(PROTOCOL='rdma'|DEVICE_NAME='no_such_device'): expected ", line)

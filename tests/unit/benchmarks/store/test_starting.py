"""The command line, the store's programs, and which servers know of the store."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.connector.topology import routes, servers
from benchmarks.connector.topology.routes import OurInstance, Route
from benchmarks.connector.topology.servers import Place
from benchmarks.deadline import Deadline
from benchmarks.errors import CannotStart
from benchmarks.ports import free_ports
from benchmarks.processes import Processes
from benchmarks.store import programs
from benchmarks.store.instances import Instances
from benchmarks.store.options import parse
from stack.running import store as commands

# It knows of no memory in its first two answers, as until an owner has joined.
MASTER = """#!{python}
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

asked = []

class Master(BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        capacity = 4096 if len(asked) > 2 else 0
        self.wfile.write(
            f"# TYPE master_total_capacity_bytes gauge\\nmaster_total_capacity_bytes {{capacity}}\\n"
            "master_key_count 7\\nmaster_evicted_key_count 2\\n".encode())

    def log_message(self, *words):
        pass

(port,) = (int(word.partition("=")[2]) for word in sys.argv if word.startswith("--metrics_port="))
HTTPServer(("127.0.0.1", port), Master).serve_forever()
"""
OWNER = """#!{python}
import os, sys, time
told = " ".join(sys.argv[1:]) + "\\n" + str(dict(os.environ))
open(os.path.join(os.path.dirname(sys.argv[0]), "owner"), "w").write(told)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the programs, and of the interpreter beside which they are looked for."""
    for name, text in (("mooncake_master", MASTER), ("mooncake_client", OWNER)):
        (tmp_path / name).write_text(text.format(python=sys.executable))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(programs, "POLL_S", 0.05)
    return tmp_path


@pytest.mark.timeout(60)
@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_the_store_is_there_when_the_master_knows_of_its_memory(folder: Path, profile: str) -> None:
    with Processes(folder / "logs") as processes:
        store = programs.start(4096, profile, free_ports(), processes, Deadline(30))
        assert store.counted() == {"capacity_bytes": 4096, "keys": 7, "evicted_keys": 2}
        while not (folder / "owner").is_file() or not (folder / "owner").read_text().count("\n"):
            processes.check()
    words, environment = (folder / "owner").read_text().split("\n")
    assert {f"--master_server_address={store.address}", "--global_segment_size=4096"} <= set(words.split())
    assert (commands.CUDA_LIBRARIES in environment) is (profile == "gpu")
    assert store.counted() is None


@pytest.mark.timeout(60)
def test_a_part_of_the_store_that_ends_is_named(folder: Path) -> None:
    (folder / "mooncake_master").write_text(f"#!{os.path.realpath('/proc/self/exe')}\nraise SystemExit('no port')\n")
    with Processes(folder / "logs") as processes, pytest.raises(CannotStart, match="store-master ended with status 1"):
        programs.start(4096, "cpu", free_ports(), processes, Deadline(30))


def test_two_of_three_producers_know_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[OurInstance] = []

    def start(contenders: Sequence[OurInstance], *_: object) -> list[Route]:
        started.extend(contenders)
        return [Route(contender.name, contender.url) for contender in contenders]

    monkeypatch.setattr(routes, "start", start)
    options = parse(["--ours-env", "STORE_LOOKUP_TIMEOUT_S=1"])
    blueprint = servers.blueprint(options, tmp_path, "127.0.0.1:2379", "key")
    deadline = Deadline(1)
    with Processes(tmp_path) as processes:
        instances = Instances(
            blueprint, Place(), options.variables_of_ours, "e:1", "s:2", free_ports(), processes, deadline
        )
        found = instances.start(("plain", "first", "second"))
    assert list(found) == ["plain", "first", "second"]
    environments = [launch.environment for contender in started for launch in contender.launches]
    assert [environment.get("STORE_MASTER") for environment in environments] == [None, "s:2", "s:2"]
    assert {environment["VLLM_DISTRIBUTED_KV_ROLE"] for environment in environments} == {"producer"}
    assert {environment["STORE_LOOKUP_TIMEOUT_S"] for environment in environments} == {"1"}
    assert len({route.decode_url for route in found.values()}) == 3


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_profiles_prompts_fit_into_its_servers(profile: str) -> None:
    options = parse(["--profile", profile])
    assert options.prompt_tokens[0] == 512
    assert bool(options.shape) is (profile == "gpu")
    assert max(options.prompt_tokens) < options.max_model_len


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--prompt-tokens", "9000"], "--prompt-tokens=9000: expected more than a block of 32 tokens, and less than"),
        (["--prompt-tokens", "20"], "--prompt-tokens=20: expected more than a block of 32 tokens"),
        (["--ours-env", "STORE"], "--ours-env='STORE': expected NAME=VALUE"),
        (["--model-shape", "llama"], "--model-shape='llama': expected one of qwen2.5-7b"),
    ],
)
def test_what_cannot_work_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(words)
    assert exit_.value.code == 2
    assert line in capsys.readouterr().err

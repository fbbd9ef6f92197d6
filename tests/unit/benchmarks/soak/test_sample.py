"""What is read from the proxy, from vLLM and from Docker, and what happens when one of them is silent."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks.soak import sample
from benchmarks.soak.containers import members_of
from benchmarks.soak.processes import StackOfProcesses, tree_memory
from benchmarks.soak.sample import Instance, Requests
from benchmarks.soak.stack import Member, Unreachable
from stack.configuration.settings import StackSettings

PROXY = """\
# TYPE pd_proxy_requests_in_flight gauge
pd_proxy_requests_in_flight 7.0
# TYPE pd_proxy_requests counter
pd_proxy_requests_total{client="",endpoint="/v1/completions",outcome="ok",status="200"} 40.0
pd_proxy_requests_total{client="",endpoint="/v1/chat/completions",outcome="ok",status="200"} 2.0
pd_proxy_requests_total{client="",endpoint="/v1/completions",outcome="no_instance",status="503"} 3.0
pd_proxy_requests_total{client="",endpoint="/tokenize",outcome="ok",status="200"} 9.0
"""
VLLM = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 5.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="32",engine="0",num_gpu_blocks="711"} 1.0
# TYPE vllm:num_preemptions counter
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
# TYPE pd_kv_failed_shares counter
pd_kv_failed_shares_total{engine="0",transport="tcp"} 1.0
"""
INSTANCES = {
    "instances": [{"role": role, "url": f"http://{role}:{port}"} for role, port in (("decode", 2), ("decode", 1))]
}


class ScriptedStack:
    """Answers what it is given; a URL that it does not have is silent."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers

    def is_up(self) -> bool:
        return True

    def members(self) -> list[Member]:
        return [Member("decode-0", "11", 5)]

    def read(self, url: str) -> str:
        if url not in self.answers:
            raise Unreachable(f"{url}: timed out")
        return self.answers[url]

    def run_folder(self, wanted: Path) -> str:
        return str(wanted)

    def fetch(self, wanted: Path) -> None:
        pass

    def end_load(self, load: object) -> None:
        pass


def test_completions_are_counted_by_what_became_of_them() -> None:
    assert sample.requests_in(PROXY) == Requests(answered=42, others={"no_instance": 3}, in_flight=7)


def test_blocks_in_use_are_a_share_of_all_blocks() -> None:
    assert sample.instance_in(VLLM) == Instance(running=3, waiting=5, blocks=178, preemptions=2, failed_transfers=1)


def test_instances_have_names_as_their_processes() -> None:
    stack = ScriptedStack({"http://proxy/instances": json.dumps(INSTANCES)})
    found = sample.instance_urls(stack, "http://proxy")
    assert found == {"decode-0": "http://decode:1", "decode-1": "http://decode:2"}


def test_who_is_silent_is_named_and_the_others_are_seen() -> None:
    stack = ScriptedStack({"http://decode/metrics": VLLM})
    found = sample.take(stack, "http://proxy", {"decode-0": "http://decode", "prefill-0": "http://prefill"}, at=5.0)
    assert found.requests is None
    assert list(found.instances) == ["decode-0"]
    assert found.memory == {"decode-0": 5}
    assert found.silent == ["prefill-0: http://prefill/metrics: timed out", "proxy: http://proxy/metrics: timed out"]


def test_containers_are_named_as_processes_are() -> None:
    containers = [{"Name": "pd-stack-decode-2", "Service": "decode", "ID": "abc"}]
    stats = [{"Name": "pd-stack-decode-2", "MemUsage": "1.5GiB / 5GiB"}, {"Name": "another", "MemUsage": "1MiB / 2MiB"}]
    inspected = [{"Name": "/pd-stack-decode-2", "State": {"StartedAt": "2026-01-01T00:00:00Z"}}]
    (member,) = members_of(containers, stats, inspected)
    assert member == Member("decode-1", "2026-01-01T00:00:00Z", 1536 << 20)


def test_an_unknown_unit_of_docker_is_named() -> None:
    with pytest.raises(Unreachable, match="'3PB', expected a number and one of B, KiB"):
        members_of([], [{"Name": "x", "MemUsage": "3PB / 5PB"}], [])


def test_the_memory_of_a_process_that_has_ended_is_none() -> None:
    assert tree_memory(2**22 + 1) == 0  # above the kernel's largest pid


def test_a_load_is_ended_with_what_it_has_started(load: Callable[[str], "subprocess.Popen[bytes]"]) -> None:
    child = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit(0)); print('up', flush=True); signal.pause()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    started = load(parent)
    assert started.stdout is not None
    assert started.stdout.readline() == b"up\n"
    (below,) = psutil.Process(started.pid).children()
    StackOfProcesses(StackSettings()).end_load(started)
    assert started.poll() is not None
    assert not below.is_running()

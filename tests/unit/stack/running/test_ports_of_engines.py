"""The plan of ports, and where launchers will listen: the same, and nothing twice, whatever is multiplied with what."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.configuration.environment import load
from stack.configuration.settings import StackSettings
from stack.instances.record import Role
from stack.instances.settings import PORTS_PER_INSTANCE, LauncherSettings
from stack.running import ports
from stack.running.ports import LAST_PORT, given_twice, to_be_used
from stack.running.services import instances

SIZES = [(size, stages) for size in (1, 2, 4, 8, 16) for stages in (1, 2, 4) if size * stages <= PORTS_PER_INSTANCE]
BASELINE = "compose.yaml:compose.baseline.yaml"
replicas = st.sampled_from([0, 1, 2, 3, 16])
engines = st.integers(1, PORTS_PER_INSTANCE)


def launchers(stack: StackSettings) -> list[LauncherSettings]:
    """As supervisord will start them: with the service's variables, and their number among the replicas."""
    found = []
    for service in instances(stack):
        for index in range(service.replicas):
            with pytest.MonkeyPatch.context() as patched:
                for name, value in service.environment.items():
                    patched.setenv(name, value)
                found.append(load(LauncherSettings, instance_index=index, stack_key="0123456789abcdef"))
    return found


@settings(max_examples=20, deadline=None)
@given(
    size=st.sampled_from(SIZES),
    of_engines=st.tuples(engines, engines),
    of_replicas=st.tuples(replicas, replicas),
    control_port=st.sampled_from([0, 20000, LAST_PORT - 1000]),
    compose_file=st.sampled_from(["compose.yaml", BASELINE]),
)
def test_every_rank_of_every_engine_of_every_replica_has_a_port_of_its_own(
    size: tuple[int, int],
    of_engines: tuple[int, int],
    of_replicas: tuple[int, int],
    control_port: int,
    compose_file: str,
) -> None:
    most = PORTS_PER_INSTANCE // (size[0] * size[1])
    prefill, decode = (min(each, most) for each in of_engines)
    stack = StackSettings(
        prefill_replicas=of_replicas[0],
        decode_replicas=of_replicas[1],
        control_port=control_port,
        compose_file=compose_file,
    )
    variables = {
        "TENSOR_PARALLEL_SIZE": str(size[0]),
        "PIPELINE_PARALLEL_SIZE": str(size[1]),
        "VLLM_HOST_IP": "127.0.0.1",
        "PREFILL_VLLM_EXTRA_ARGS": f"--data-parallel-size {prefill}",
        "DECODE_VLLM_EXTRA_ARGS": f"--data-parallel-size {decode}",
    }
    with pytest.MonkeyPatch.context() as patched:
        for name in ("MOONCAKE_CONFIG_PATH", "CONTROL_PORT", "VLLM_EXTRA_ARGS"):
            patched.delenv(name, raising=False)
        for name, value in variables.items():
            patched.setenv(name, value)
        patched.setattr(ports, "_listeners", dict)  # who has them already matters to nobody here
        planned = to_be_used(stack, with_docker=False)
        started = launchers(stack)
    listening = [port for each in started for port in (each.port, *each.control_ports)]
    assert sorted(port.number for port in planned if port.service.startswith(("prefill", "decode"))) == sorted(
        listening
    )
    assert len(set(listening)) == len(listening)
    assert list(given_twice(planned)) == []


@pytest.mark.parametrize(
    ("role", "address", "first"),
    [("prefill", "192.168.0.137", 13003), ("decode", "192.168.0.139", 13503)],
)
def test_on_two_hosts_a_mooncake_json_gives_each_engine_its_port(
    role: Role, address: str, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """README's two hosts, with two engines of two ranks on each."""
    file = tmp_path / "mooncake.json"
    urls = {"prefill_url": "192.168.0.137:13003", "decode_url": "192.168.0.139:13503"}
    file.write_text(json.dumps({**urls, "metadata_server": "192.168.0.139:2379"}))
    monkeypatch.setenv("MOONCAKE_CONFIG_PATH", str(file))
    monkeypatch.setenv("TENSOR_PARALLEL_SIZE", "2")
    monkeypatch.setenv("VLLM_EXTRA_ARGS", "--data-parallel-size 2")
    monkeypatch.delenv("CONTROL_PORT", raising=False)
    stack = StackSettings(stack_services=(role,), vllm_host_ip=address)
    planned = to_be_used(stack, with_docker=False)
    control = [port for port in planned if port.service.endswith("control channel")]
    assert [port.number for port in control] == list(range(first, first + 4))
    assert {port.hosts for port in control} == {(address,)}
    assert list(given_twice(planned)) == []

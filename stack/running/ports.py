"""The ports that will be listened on, each with the variable it comes from, and who has it already.

Replicas, ranks and control channels count from ports that a person sets, so two that look far apart may meet.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import psutil

from stack.configuration.environment import ConfigError, load
from stack.configuration.settings import STORE, StackSettings
from stack.instances.settings import PORTS_PER_INSTANCE, LauncherSettings
from stack.running import store
from stack.running.service import Service
from stack.running.services import DECODE_CONTROL_OFFSET, services

LAST_PORT = 65535
LOCUST_MASTER_PORT = 5557  # of compose.rdma.yaml's loadtest, on loopback
# Where each service listens, and the control channels of the instances.
Hosts = Mapping[str, tuple[str, ...]]
CONTROL = "control"
EVERYWHERE = ("0.0.0.0", "::", "")
LOOPBACK: Hosts = {"prometheus": ("127.0.0.1",)}
# Stand-ins for what is known only later: the role of an instance, and the key that the prepare step makes.
STAND_INS = {"vllm_distributed_kv_role": "producer", "stack_key": "made by the prepare step"}


@dataclass(frozen=True)
class Port:
    """A port that `service` will listen on at `hosts`; `used_by` describes a stranger that has it already.

    `variable` says `first`, from where ranks and the `replicas` of that variable count. Empty: nothing can change it.
    """

    number: int
    service: str
    variable: str
    used_by: str | None = None
    first: int | None = None
    replicas: str = ""
    hosts: tuple[str, ...] = ("127.0.0.1",)

    @property
    def origin(self) -> str:
        if not self.variable:
            return f"{self.service} (always {self.number})"
        return f"{self.service} ({self.variable}={self.number if self.first is None else self.first})"

    def meets(self, other: "Port") -> bool:
        """Whether the two cannot both be listened on."""
        if self.number != other.number:
            return False
        ours, theirs = set(self.hosts), set(other.hosts)
        return bool(ours & theirs or (ours | theirs) & set(EVERYWHERE))


def to_be_used(settings: StackSettings, *, with_docker: bool) -> tuple[Port, ...]:
    """Of the services that are to be started here. With Docker: of those that are published."""
    chosen = services(settings)
    if with_docker and "compose.rdma.yaml" in settings.overlays:
        # On the host's network. Replicas do not count there, and CONTROL_PORT does not reach the containers.
        hosts = _hosts_of_containers(settings)
        reached = [service for service in chosen if service.name not in STORE]  # the doctor refuses its overlay there
        found = [port for service in reached for port in _of(service, hosts, control_port=0, apart=0)]
        if "loadtest" in settings.stack_services:
            found.append(Port(LOCUST_MASTER_PORT, "the load test's workers", ""))
    elif with_docker:
        hosts = _hosts_of_containers(settings)
        published = [service for service in chosen if service.name in ("proxy", "loadtest", "prometheus")]
        found = [port for service in published for port in _of_http(service, hosts)]
        if settings.is_observed:
            found.append(Port(settings.grafana_port, "grafana", "GRAFANA_PORT"))
    else:
        hosts = _hosts_of_processes(settings)
        found = [port for service in chosen for port in _of(service, hosts, settings.control_port)]
    listeners = _listeners()
    return tuple(replace(port, used_by=listeners.get(port.number)) for port in found)


def given_twice(ports: Iterable[Port]) -> Iterator[tuple[Port, Port]]:
    """Pairs that cannot both be listened on; of two ranges that meet, the first pair."""
    seen: dict[int, list[Port]] = {}
    told: set[tuple[str, str]] = set()
    for port in ports:
        for other in seen.get(port.number, []):
            pair = other.variable, port.variable
            if other.meets(port) and pair not in told:
                told.add(pair)
                yield other, port
        seen.setdefault(port.number, []).append(port)


def _of(service: Service, hosts: Hosts, control_port: int, apart: int = 1) -> Iterator[Port]:
    yield from _of_http(service, hosts, apart)
    for number in service.other_ports:
        yield Port(number, service.name, service.port_variable, first=service.ports[0], hosts=hosts[service.name])
    yield from _of_instance(service, hosts, control_port, apart)


def _of_http(service: Service, hosts: Hosts, apart: int = 1) -> Iterator[Port]:
    """`apart`: 0 where replicas do not count."""
    first = service.ports[0]
    for index in range(service.replicas):
        yield Port(
            service.ports[index * apart],
            _name(service, index),
            service.port_variable,
            first=first,
            replicas=_replicas(service),
            hosts=hosts[service.name],
        )


def _of_instance(service: Service, hosts: Hosts, control_port: int, apart: int) -> Iterator[Port]:
    """Of an instance's control channel, one for each of its ranks, and of its data-parallel engines; none for a service
    that is no instance."""
    role = service.environment.get("VLLM_DISTRIBUTED_KV_ROLE")
    if role is None:
        return
    offset = DECODE_CONTROL_OFFSET if role == "consumer" else 0
    given = {"vllm_distributed_kv_role": role, "instance_index": 0}
    try:
        # Of one rank, at usual ports: an instance itself refuses ports beyond the last, and they are to be told here.
        one_rank = {"control_port": 0, "tensor_parallel_size": 1, "pipeline_parallel_size": 1}
        launcher = load(LauncherSettings, **{**STAND_INS, **given, **one_rank})
        ranks = load(LauncherSettings, **{**STAND_INS, "control_port": 0, "mooncake_config_path": None})
    except ConfigError:  # reported through bad_settings
        return
    if not launcher.has_connector:
        return
    file = launcher.mooncake_config_path
    first = control_port + offset if control_port and not file else launcher.control_ports.start
    variable = f"{launcher.role}_url of MOONCAKE_CONFIG_PATH" if file else "CONTROL_PORT"
    engines = launcher.data_parallel
    if engines.rpc and engines.first == 0:  # of replicas nobody else can be rank 0: see facts.py
        waiting = f"{_name(service, 0)}'s data-parallel ranks"
        hosts_of_rank_0 = (_address(engines.rpc[0]),)
        yield Port(engines.rpc[1], waiting, f"{service.name.upper()}_VLLM_EXTRA_ARGS", hosts=hosts_of_rank_0)
    for index in range(service.replicas):
        for rank in range(engines.local * ranks.ranks):
            yield Port(
                first + rank + index * apart * PORTS_PER_INSTANCE,
                f"{_name(service, index)}'s control channel",
                variable,
                first=first if file else control_port,
                replicas=_replicas(service),
                hosts=hosts[CONTROL],
            )


def _name(service: Service, index: int) -> str:
    return service.process(index) if service.replicas > 1 else service.name


def _replicas(service: Service) -> str:
    return service.replicas_variable or f"{service.name.upper()}_REPLICAS" if service.replicas > 1 else ""


def _hosts_of_processes(settings: StackSettings) -> Hosts:
    instance = (_address(settings.listen_host or settings.host_ip),)
    return {
        "etcd": ("127.0.0.1", _address(settings.host_ip)),
        "prefill": instance,
        "decode": instance,
        CONTROL: (_address(settings.host_ip),),
        "store-master": (_address(settings.host_ip),),
        "store": (store.EVERYWHERE,),
        "proxy": (_address(os.environ.get("PROXY_LISTEN_HOST") or settings.bind_address),),
        "loadtest": (_address(settings.bind_address),),
        **LOOPBACK,
    }


def _hosts_of_containers(settings: StackSettings) -> Hosts:
    """Where their ports are published, or where they listen on the host's network."""
    inside, outside = (_address(settings.host_ip),), (_address(settings.bind_address),)
    ours = dict.fromkeys(("etcd", "prefill", "decode", CONTROL), inside)
    return {**ours, "proxy": outside, "loadtest": outside, **LOOPBACK}


def _address(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def _listeners() -> dict[int, str]:
    """Port -> who listens on it; without root, other users' programs have no name here."""
    found: dict[int, str] = {}
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr:
            found[connection.laddr.port] = _program(connection.pid)
    return found


def _program(pid: int | None) -> str:
    if pid is None:
        return "a program of another user"
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"

"""What this machine says to the addresses in the variables: the doctor's look at them, for `facts.py`."""

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from stack import etcd
from stack.configuration.settings import StackSettings
from stack.instances.settings import LauncherSettings
from stack.network import addresses
from stack.running.services import etcd_hosts

MOONCAKE = "MOONCAKE_CONFIG_PATH"
ETCD_ANSWERS_WITHIN_S = 2.0


@dataclass(frozen=True)
class Unusable:
    """`variable` holds `value`, which cannot be used where it would be; `reason` may be empty."""

    variable: str
    value: str
    needed: str
    reason: str = ""
    severity: Literal["error", "warning"] = "error"


def gather(settings: StackSettings, launcher: LauncherSettings | None, *, with_docker: bool) -> tuple[Unusable, ...]:
    on_this_host = not with_docker or "compose.rdma.yaml" in settings.overlays
    return (
        *_cannot_listen(settings, on_this_host=on_this_host),
        *(_names(settings, launcher) if on_this_host else _loopback_in_containers(settings, launcher)),
        *(() if with_docker else _silent_etcds(settings, launcher)),
    )


def _cannot_listen(settings: StackSettings, *, on_this_host: bool) -> Iterator[Unusable]:
    chosen = set(settings.stack_services)
    listening = []
    if {"proxy", "loadtest"} & chosen:
        listening.append(("BIND_ADDRESS", settings.bind_address))
    if on_this_host and {"etcd", "prefill", "decode"} & chosen:
        listening += [("VLLM_HOST_IP", settings.host_ip), ("LISTEN_HOST", settings.listen_host)]
    for variable, address in listening:
        if address and (reason := addresses.obstacle(address)):
            yield Unusable(variable, address, "an address of this machine", reason)


def _names(settings: StackSettings, launcher: LauncherSettings | None) -> Iterator[Unusable]:
    for variable, endpoint in _etcds(settings, launcher):
        try:
            addresses.numeric(etcd.address(endpoint)[0])
        except ValueError as error:
            yield Unusable(variable, endpoint, str(error).removeprefix("expected "))


def _silent_etcds(settings: StackSettings, launcher: LauncherSettings | None) -> Iterator[Unusable]:
    """Those that `make up` does not start and that do not answer: instances would say so with the model loaded."""
    started = etcd_hosts(settings) if "etcd" in settings.stack_services else []
    for variable, endpoint in _etcds(settings, launcher):
        host, port = etcd.address(endpoint)
        try:
            address = addresses.numeric(host)
        except ValueError:  # told by `_names`
            continue
        if port == settings.etcd_port and address in started:
            continue
        try:
            socket.create_connection((address, port), ETCD_ANSWERS_WITHIN_S).close()
        except OSError as error:
            reason = f"where nobody answers ({error.strerror or 'in time'})"
            yield Unusable(variable, endpoint, "an etcd that runs", reason, "warning")


def _loopback_in_containers(settings: StackSettings, launcher: LauncherSettings | None) -> Iterator[Unusable]:
    urls = _etcds(settings, launcher)
    if launcher is not None and launcher.mooncake_config_path:
        config = launcher.mooncake
        urls += [(f"{MOONCAKE}: {key}", getattr(config, key)) for key in ("prefill_url", "decode_url")]
    for variable, endpoint in urls:
        host, _ = etcd.address(endpoint)
        if host == "localhost" or _is_loopback(host):
            yield Unusable(variable, endpoint, "an address that all share", "in a container the container itself")


def _etcds(settings: StackSettings, launcher: LauncherSettings | None) -> list[tuple[str, str]]:
    named = [("ETCD_ENDPOINT", settings.etcd_endpoint)] if settings.etcd_endpoint else []
    if launcher is not None and launcher.mooncake_config_path:
        named.append((f"{MOONCAKE}: metadata_server", launcher.mooncake.metadata_server))
    return named


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Which CPUs the proxies, the upstreams and the load generator get: none shares a core if there are enough."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """CPU numbers; a proxy with n workers gets the first n of `proxy`."""

    proxy: tuple[int, ...]
    upstream: tuple[int, ...]
    load: tuple[int, ...]

    def describe(self) -> str:
        parts = (("proxy", self.proxy), ("upstreams", self.upstream), ("load generator", self.load))
        shared = set(self.proxy[1:]) & {*self.upstream, *self.load}
        note = "; a proxy's second worker shares its core with the rest" if shared else ""
        return ", ".join(f"{name} {_list(cpus)}" for name, cpus in parts) + note


def layout(cores: Sequence[Sequence[int]], workers: int) -> Layout:
    """Args: cores: the CPUs of each physical core; workers: the most of one proxy.

    With too few cores the first belongs to the proxy alone, as long as it has one worker.
    """
    if len(cores) < workers + 2:
        rest = cores[1:] or cores
        other = tuple(cpu for core in rest for cpu in core)
        return Layout(tuple(core[0] for core in cores[:workers]), other, other)
    proxy, rest = cores[:workers], cores[workers:]
    half = len(rest) // 2
    upstream, load = (tuple(core[0] for core in part) for part in (rest[:half], rest[half:]))
    return Layout(tuple(core[0] for core in proxy), upstream, load)


def cores() -> list[list[int]]:
    """Of this machine, as far as this process may use them."""
    found: dict[str, list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        found.setdefault(siblings.read_text() if siblings.exists() else str(cpu), []).append(cpu)
    return list(found.values())


def pinned(cpus: Iterable[int], *command: str) -> tuple[str, ...]:
    return ("taskset", "--cpu-list", _list(cpus), *command)


def _list(cpus: Iterable[int]) -> str:
    return ",".join(map(str, cpus))

"""What the doctor looks at, gathered from this machine. Nothing here judges; `findings.py` does, from these alone."""

import importlib
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from stack import install
from stack.configuration import env_file
from stack.configuration.environment import ConfigError, Settings, load
from stack.configuration.settings import EMBEDDED_MODEL, REPOSITORY, StackSettings
from stack.diagnosis import address_facts, rdma_facts
from stack.host import cgroup
from stack.installation import environments, system_libraries
from stack.instances import mooncake_config
from stack.instances.settings import LauncherSettings
from stack.running import compose, ports, services
from stack.running.ports import STAND_INS
from stack.running.processes import Processes

SETTINGS_MODULES = ("stack.configuration.settings", "stack.instances.settings", "proxy.settings", "loadtest.settings")


@dataclass(frozen=True)
class Facts:
    """Sizes in MiB. What does not concern the chosen way is None or empty."""

    with_docker: bool
    python: tuple[int, int]
    memory_total: int
    memory_available: int
    memory_limited: bool  # by a control group, to less than the machine has
    disk_folder: str
    disk_free: int
    disk_needed: int
    instances: int  # vLLM's engines that are still to be started here: of a server one, or its data-parallel ones
    embedded_model: bool
    ports: tuple[ports.Port, ...]
    missing_packages: tuple[system_libraries.SystemPackage, ...]
    apt_may_install: bool
    engine: str | None
    compose: str | None
    overlays: tuple[str, ...]
    missing_overlays: tuple[str, ...]
    gpus: tuple[str, ...]
    rdma_devices: tuple[str, ...]
    wants_gpu: bool
    wants_rdma: bool
    env_path: str
    env_entries: tuple[env_file.Entry, ...]
    known_variables: frozenset[str]
    bad_settings: tuple[str, ...]  # lines of ConfigError
    rdma: rdma_facts.Rdma | None = None  # None where it is not wanted
    unusable_addresses: tuple[address_facts.Unusable, ...] = ()
    keys_without_effect: tuple[str, ...] = ()  # of mooncake.json
    store_mib: int = 0  # of a KV store that is to be started here
    store_asked_for: bool = False
    store_master: str = ""  # of another one
    store_masters: int = 1
    store_has_disk: bool = False


def gather(settings: StackSettings, *, with_docker: bool) -> Facts:
    processes = Processes(settings)
    running = processes.is_up() or (with_docker and compose.Compose(settings).is_up())
    memory = psutil.virtual_memory()
    # Containers are in the groups of their engine, not in those of the shell that asks for them.
    limits = cgroup.limits_of_everything() if with_docker else cgroup.limits()
    needed = environments.needed_by(settings.stack_services, settings)
    outdated = [environment for environment in needed if not install.is_current(environment, settings)]
    folder = _existing(settings.stack_dir)
    launcher = _launcher_settings()
    protocol = launcher.mooncake.protocol if launcher else ""
    wants_rdma = "compose.rdma.yaml" in settings.overlays or (protocol == "rdma" and not settings.is_baseline)
    return Facts(
        with_docker=with_docker,
        python=sys.version_info[:2],
        memory_total=int(min(memory.total, limits.memory)) >> 20,
        memory_available=int(min(memory.available, limits.memory_available)) >> 20,
        memory_limited=limits.memory < memory.total,
        disk_folder=str(folder),
        disk_free=shutil.disk_usage(folder).free >> 20,
        disk_needed=0 if with_docker else sum(environment.disk_mib for environment in outdated),
        instances=0 if running else _engines(settings),
        embedded_model=settings.model == EMBEDDED_MODEL,
        ports=() if running else ports.to_be_used(settings, with_docker=with_docker),
        missing_packages=() if with_docker else system_libraries.missing(system_libraries.for_processes(settings)),
        apt_may_install=system_libraries.apt_may_install(),
        engine=compose.engine_version() if with_docker else None,
        compose=compose.compose_version() if with_docker else None,
        overlays=settings.overlays,
        missing_overlays=tuple(file for file in settings.compose_file.split(":") if not _is_file(file)),
        gpus=_gpus(),
        rdma_devices=_rdma_devices(),
        wants_gpu=settings.uses_gpu,
        wants_rdma=wants_rdma,
        env_path=str(env_file.path()),
        env_entries=env_file.applied(),
        known_variables=env_file.known_names(),
        bad_settings=bad_settings() + tuple(_repeated_ranks(settings)),
        rdma=_rdma(launcher, settings, with_docker=with_docker) if wants_rdma and launcher else None,
        unusable_addresses=address_facts.gather(settings, launcher, with_docker=with_docker),
        keys_without_effect=_keys_without_effect(launcher),
        store_mib=settings.store_bytes >> 20 if settings.has_store and not running else 0,
        store_asked_for=settings.stack_store,
        store_master=settings.store_master,
        store_masters=settings.store_masters,
        store_has_disk=settings.has_store and settings.store_disk is not None,
    )


def settings_classes() -> list[type[Settings]]:
    """The settings of every part."""
    modules = [importlib.import_module(name) for name in SETTINGS_MODULES]
    return [
        member
        for module in modules
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, Settings) and member.__module__ == module.__name__
    ]


def bad_settings() -> tuple[str, ...]:
    """A line for each variable of any part whose value cannot work."""
    lines: list[str] = []
    for settings in settings_classes():
        stand_ins = {
            name: value
            for name, value in STAND_INS.items()
            if name in settings.model_fields and not os.environ.get(name.upper())
        }
        try:
            load(settings, **stand_ins)
        except ConfigError as error:
            lines += [line for line in error.lines if line not in lines]
    return tuple(lines)


def _gpus() -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    return tuple(result.stdout.splitlines()) if result.returncode == 0 else ()


def _rdma_devices() -> tuple[str, ...]:
    folder = Path("/sys/class/infiniband")
    return tuple(sorted(device.name for device in folder.iterdir())) if folder.is_dir() else ()


def _rdma(launcher: LauncherSettings, settings: StackSettings, *, with_docker: bool) -> rdma_facts.Rdma:
    in_host_memory = 0 if settings.uses_gpu else launcher.kv_cache_bytes
    return rdma_facts.gather(launcher.mooncake.device_name, in_host_memory, with_docker=with_docker)


def _keys_without_effect(launcher: LauncherSettings | None) -> tuple[str, ...]:
    path = launcher and launcher.mooncake_config_path
    return tuple(mooncake_config.keys_without_effect(path)) if path else ()


def _launcher_settings() -> LauncherSettings | None:
    try:
        return load(LauncherSettings, **STAND_INS)
    except ConfigError:  # reported through bad_settings
        return None


def _engines(settings: StackSettings) -> int:
    """Each holds the model and a KV cache."""
    count = 0
    for service in services.instances(settings):
        role = service.environment["VLLM_DISTRIBUTED_KV_ROLE"]
        try:
            launcher = load(LauncherSettings, **{**STAND_INS, "vllm_distributed_kv_role": role})
        except ConfigError:  # reported through bad_settings
            count += service.replicas
        else:
            count += service.replicas * launcher.data_parallel.local
    return count


def _repeated_ranks(settings: StackSettings) -> Iterator[str]:
    """A line as bad_settings has them for each role of which several servers here would be the same ranks.

    Replicas are told the same, and so are both services of the baseline.
    """
    servers: Counter[str] = Counter()
    for service in services.instances(settings):
        if service.name in settings.stack_services:
            servers[service.environment["VLLM_DISTRIBUTED_KV_ROLE"]] += service.replicas
    for role, count in servers.items():
        try:
            launcher = load(LauncherSettings, **{**STAND_INS, "vllm_distributed_kv_role": role})
        except ConfigError:  # reported through bad_settings
            continue
        engines = launcher.data_parallel
        if count > 1 and engines.rpc:
            replicas = f"{launcher.role.upper()}_REPLICAS" if launcher.has_connector else "the replicas"
            yield (
                f"{launcher.extra_variable}={shlex.join(launcher.extra_words)!r}: "
                f"expected one server here that is rank {engines.first} of {engines.size}, not {count}: "
                f"set {replicas} to 1, and start those of other ranks with arguments of their own"
            )


def _is_file(name: str) -> bool:
    return (REPOSITORY / name).is_file()


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())

"""What is wrong with a machine or its settings for running the stack: pure functions from facts to findings.

Each finding is one line: what, what was found, what is needed, how to fix it.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from stack.configuration.env_file import Entry
from stack.diagnosis import rdma_findings
from stack.diagnosis.facts import Facts
from stack.diagnosis.finding import Finding
from stack.installation import system_libraries
from stack.installation.environments import LOCKED_PYTHON
from stack.instances.settings import WITHOUT_EFFECT
from stack.running.ports import LAST_PORT, given_twice

# Measured with the embedded model on CPU: an instance at its peak, and etcd, proxy and Locust together.
INSTANCE_MIB = 2800
OTHERS_MIB = 500
SPARE_DISK_MIB = 1500  # model, logs, etcd, uv's unpacking
OLDEST_COMPOSE = (2, 20)  # `!reset` in the overlays
# Variables of the programs that we run reach them through .env too.
OTHERS_VARIABLES = (
    "COMPOSE_",
    "DOCKER_",
    "VLLM_",
    "HF_",
    "MC_",
    "NCCL_",
    "CUDA_",
    "OMP_",
    "LOCUST_",
    "ETCD_",
    "UV_",
    "PIP_",
)


def judge(facts: Facts) -> list[Finding]:
    return [finding for check in CHECKS for finding in check(facts)]


def python_version(facts: Facts) -> Iterator[Finding]:
    if facts.python < (3, 11):
        found = ".".join(map(str, facts.python))
        yield Finding("error", "Python", found, f">= {LOCKED_PYTHON}", "install python3.11 and `make clean up`")


def memory(facts: Facts) -> Iterator[Finding]:
    needed = facts.instances * INSTANCE_MIB + OTHERS_MIB + facts.store_mib if facts.instances else 0
    if facts.memory_available >= needed:
        return
    store = f" and the KV store of {facts.store_mib}" if facts.store_mib else ""
    model = "this model" if facts.embedded_model else "the embedded model, MODEL may need more"
    yield Finding(
        "error" if facts.memory_total < needed else "warning",
        "memory",
        f"{facts.memory_available} MiB available of {facts.memory_total}"
        f"{', the limit of a control group (cgroup)' if facts.memory_limited else ''}",
        f"about {needed} MiB for {facts.instances} instances of {model}{store}",
        f"{'raise that limit' if facts.memory_limited else 'end other programs'}, "
        f"or lower PREFILL_REPLICAS or DECODE_REPLICAS{' or STORE_BYTES' if facts.store_mib else ''}",
    )


def disk(facts: Facts) -> Iterator[Finding]:
    needed = facts.disk_needed + SPARE_DISK_MIB if facts.disk_needed else 0
    if facts.disk_free < needed:
        found, wanted = f"{facts.disk_free} MiB free at {facts.disk_folder}", f"about {needed} MiB for the set-up"
        yield Finding("error", "disk", found, wanted, "free some, or set STACK_DIR to a folder on a larger disk")


def system_packages(facts: Facts) -> Iterator[Finding]:
    for package in facts.missing_packages:
        fix = "`make up` installs it" if facts.apt_may_install else system_libraries.install_line([package])
        severity: Literal["warning", "error"] = "warning" if facts.apt_may_install else "error"
        needed = f"{package.provides} ({package.purpose})"
        yield Finding(severity, package.package, f"no {package.provides}", needed, fix)


def ports(facts: Facts) -> Iterator[Finding]:
    for one, other in given_twice(facts.ports):
        if one.variable == other.variable:
            fix = f"set {one.replicas} to 1"
        else:
            fix = f"set {' or '.join(filter(None, (one.variable, other.variable)))} to another port"
        yield Finding("error", f"port {one.number}", f"{one.origin} and {other.origin}", "a port for each", fix)
    beyond: set[tuple[str, str]] = set()
    for port in facts.ports:
        if port.number > LAST_PORT:
            if (port.service, port.variable) in beyond:
                continue  # of several ranks the first
            beyond.add((port.service, port.variable))
            fix = f"lower {' or '.join(filter(None, (port.variable, port.replicas)))}"
            yield Finding("error", f"port {port.number}", port.origin, f"at most {LAST_PORT}", fix)
        if port.used_by is not None:
            fix = f"end that program, or set {port.variable} to another port"
            yield Finding("error", f"port {port.number}", f"used by {port.used_by}", f"free for {port.service}", fix)


def docker(facts: Facts) -> Iterator[Finding]:
    if not facts.with_docker:
        return
    if facts.engine is None:
        fix = "start it, or set STACK_MODE=processes"
        yield Finding("error", "Docker engine", "none that answers `docker info`", "a running engine", fix)
    oldest = ".".join(map(str, OLDEST_COMPOSE))
    if facts.compose is None:
        fix = "install the docker-compose-plugin, or set STACK_MODE=processes"
        yield Finding("error", "docker compose", "none", f"v{oldest} or newer", fix)
    elif (version := re.match(r"v?(\d+)\.(\d+)", facts.compose)) and tuple(map(int, version.groups())) < OLDEST_COMPOSE:
        fix = "update the docker-compose-plugin, or set STACK_MODE=processes"
        yield Finding("error", "docker compose", facts.compose, f"v{oldest} or newer", fix)


def overlays(facts: Facts) -> Iterator[Finding]:
    for name in facts.missing_overlays:
        fix = "correct COMPOSE_FILE; files are separated by `:`"
        yield Finding("error", "COMPOSE_FILE", f"{name!r}, which is no file", "names of files in this folder", fix)
    if {"compose.baseline.yaml", "compose.rdma.yaml"} <= set(facts.overlays):
        fix = "take one of them out of COMPOSE_FILE"
        found, needed = "compose.baseline.yaml and compose.rdma.yaml", "one: aggregated servers transfer nothing"
        yield Finding("error", "COMPOSE_FILE", found, needed, fix)
    if facts.with_docker and {"compose.observability.yaml", "compose.rdma.yaml"} <= set(facts.overlays):
        fix = "leave compose.observability.yaml out, and start a Prometheus of your own: docs/observability.md"
        found = "compose.observability.yaml and compose.rdma.yaml"
        yield Finding("error", "COMPOSE_FILE", found, "one: on the host's network nobody is found", fix)


def store(facts: Facts) -> Iterator[Finding]:
    overlay = "compose.store.yaml"
    if facts.with_docker and facts.store_asked_for and overlay not in facts.overlays:
        fix = f"append `:{overlay}` to COMPOSE_FILE: docs/store.md"
        yield Finding("error", "STACK_STORE", "true, with Docker", f"{overlay}, which starts it there", fix)
    if facts.with_docker and {overlay, "compose.rdma.yaml"} <= set(facts.overlays):
        fix = f"leave {overlay} out, start a store yourself and name it in STORE_MASTER: docs/store.md"
        found = f"{overlay} and compose.rdma.yaml"
        yield Finding("error", "COMPOSE_FILE", found, "one: from the host's network nobody finds that store", fix)
    if facts.store_master and (facts.store_asked_for or overlay in facts.overlays):
        asked = "STACK_STORE" if facts.store_asked_for else overlay
        fix = f"leave {asked} out to use that one, or unset STORE_MASTER for one of this stack's own"
        found = f"{facts.store_master}, and {'STACK_STORE=true' if facts.store_asked_for else overlay}"
        yield Finding("error", "STORE_MASTER", found, "one store", fix)
    if facts.store_masters > 1 and not (facts.store_master or facts.store_asked_for or overlay in facts.overlays):
        fix = f"set STACK_STORE=true, or append `:{overlay}` to COMPOSE_FILE: docs/store.md"
        yield Finding("warning", "STORE_MASTERS", f"{facts.store_masters}, without a store", "a KV store", fix)
    if facts.with_docker and facts.store_masters > 1 and facts.store_has_disk:
        # The masters' log outlives `down` in etcd's volume, and names owners by addresses that new containers have not.
        found = f"{facts.store_masters}, with STORE_DISK_BYTES in containers"
        fix = "unset one of them: new containers would find nothing of what is on the disk, and fail to load it"
        yield Finding("error", "STORE_MASTERS", found, "one master with a disk", fix)


def hardware(facts: Facts) -> Iterator[Finding]:
    if facts.wants_gpu and not facts.gpus:
        fix = "install the NVIDIA driver, or take compose.gpu.yaml out of COMPOSE_FILE"
        yield Finding("error", "GPU", "none that nvidia-smi lists", "one for compose.gpu.yaml", fix)
    if facts.wants_rdma and not facts.rdma_devices:
        fix = "load the device's driver, or set MOONCAKE_PROTOCOL=tcp and take compose.rdma.yaml out of COMPOSE_FILE"
        yield Finding("error", "RDMA", "nothing in /sys/class/infiniband", "a device for the protocol rdma", fix)


def rdma(facts: Facts) -> Iterator[Finding]:
    if facts.rdma is not None and facts.rdma_devices:
        yield from rdma_findings.judge(
            facts.rdma,
            with_docker=facts.with_docker,
            on_gpu=facts.wants_gpu,
        )


def env_lines(facts: Facts) -> Iterator[Finding]:
    yield from bad_lines(facts.env_entries, facts.env_path)
    for entry in facts.env_entries:
        if entry.unset:
            # What was meant as a dollar sign is mostly one of a password, and what follows it a part of that.
            found = f"a $ in {facts.env_path}:{entry.line} with a name behind it that is not set"
            needed = "a variable that is set: this one becomes nothing"
            fix = "write $$ for a dollar sign, or put the value in single quotes"
            yield Finding("warning", str(entry.name), found, needed, fix)


def bad_lines(entries: Sequence[Entry], file: str) -> Iterator[Finding]:
    """One for each part of `.env` that compose would refuse, and with it the whole file."""
    for entry in entries:
        if entry.problem:
            needed = entry.problem.removeprefix("expected ")
            yield Finding("error", f"{file}:{entry.line}", entry.shown, needed, "correct or remove the line")


def unusable_addresses(facts: Facts) -> Iterator[Finding]:
    for found in facts.unusable_addresses:
        fix = f"correct it in {facts.env_path} or in the environment"
        what = ", ".join(filter(None, (repr(found.value), found.reason)))
        yield Finding(found.severity, found.variable, what, found.needed, fix)


def mooncake_keys(facts: Facts) -> Iterator[Finding]:
    for key in facts.keys_without_effect:
        needed = "nothing: this stack has no use for it"
        yield Finding("warning", "MOONCAKE_CONFIG_PATH", f"{key}, without effect", needed, "leave it or remove it")


def env_names(facts: Facts) -> Iterator[Finding]:
    for entry in facts.env_entries:
        where = f"{facts.env_path}:{entry.line}"
        if entry.name is None:
            continue
        if entry.name in WITHOUT_EFFECT:
            needed = "nothing: the process group that it configured no longer exists"
            yield Finding("warning", entry.name, "set, without effect", needed, f"remove it from {where}")
        elif entry.name not in facts.known_variables:
            near = difflib.get_close_matches(entry.name, facts.known_variables, n=1, cutoff=0.8)
            if not near and entry.name.startswith(OTHERS_VARIABLES):
                continue
            fix = f"did you mean {near[0]}?" if near else "remove it; .env.example has all names"
            yield Finding("warning", entry.name, f"in {where}", "a variable of .env.example", fix)


def env_values(facts: Facts) -> Iterator[Finding]:
    return bad_values(facts.bad_settings, facts.env_path)


def bad_values(lines: Sequence[str], file: str) -> Iterator[Finding]:
    """One for each line of a ConfigError."""
    for line in lines:
        name, value, needed = _parts(line)
        yield Finding("error", name, value, needed, f"correct it in {file} or in the environment")


def _parts(line: str) -> tuple[str, str, str]:
    """Name, value and what would be right, of a line `NAME='value': what would be right`."""
    match = re.fullmatch(r"([A-Z0-9_]*)=(.*?): (.*)", line, flags=re.DOTALL)
    if match is None:
        return "settings", line, "other values"
    return match[1], match[2], match[3].removeprefix("Input should be ").removeprefix("expected ")


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    python_version,
    env_lines,
    env_names,
    env_values,
    unusable_addresses,
    mooncake_keys,
    overlays,
    docker,
    store,
    hardware,
    rdma,
    system_packages,
    memory,
    disk,
    ports,
)

"""The ways in which Mooncake can move bytes: what each needs, and which one two instances use between them.

Mooncake's `protocol` argument selects nothing: an engine takes RDMA when it finds a device, TCP otherwise. What decides
are environment variables, read when an engine starts. So a process can hold an engine for each transport, started one
after the other.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from stack.network import addresses

AUTO = "auto"  # all that work here; two instances then use the best that both have
RDMA_DEVICES = Path("/sys/class/infiniband")
NAMESPACE = Path("/proc/self/ns/pid")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
DEVICES = Path("/dev")


@dataclass(frozen=True)
class Transport:
    """`forced_by` makes Mooncake take it; `tuned_by` are defaults that an operator's own value of the variable beats.

    `window`: pieces in flight to one peer, 0 where Mooncake's call for a whole batch is better. `min_stream_tokens`:
    below it a step is faster sent in one piece, because each layer's hook costs the prefill more than it gains.
    `outruns_launches`: bytes move in less time than these hooks cost where the GPU waits for its next kernel.
    """

    forced_by: str
    window: int
    min_stream_tokens: int = 0
    outruns_launches: bool = False
    tuned_by: dict[str, str] = field(default_factory=dict)


# Best first.
TRANSPORTS = {
    # A batch is one call into CUDA and has ended in well under a millisecond.
    # One H200, Qwen2.5-7B's shape, TTFT of 1,000 tokens 42 ms layer by layer and 39 ms in one piece.
    "nvlink_intra": Transport("MC_INTRANODE_NVLINK", window=0, min_stream_tokens=2048, outruns_launches=True),
    "rdma": Transport("MC_FORCE_HCA", window=1024),
    "tcp": Transport(
        "MC_FORCE_TCP",
        # Enough to keep 16 connections busy. A peer that hangs holds each of them for one progress timeout, then its
        # next piece, so this also bounds for how long (`prepare_environment`).
        window=64,
        tuned_by={
            # Without the pool each piece opens a connection of its own: 4096 pieces took 5 s instead of 0.15 s, because
            # the listener's backlog overflows.
            "MC_TCP_ENABLE_CONNECTION_POOL": "1",
            "MC_TCP_LANES_PER_PEER": "16",
            # The CUDA build only, where one thread copies from and to the GPU (1.0 -> 2.0 GB/s at 64 KiB pieces); the
            # CPU build has one thread.
            "MC_NUM_TCP_IO_THREADS": "8",
            # GPU memory is staged in pieces of this size, each with a synchronous copy.
            "MC_TCP_SLICE_SIZE": str(1 << 20),
        },
    ),
}
HANGING_ROUNDS = 5  # progress timeouts that a hanging peer can cost: window / connections, and the one under way


def candidates(setting: str) -> list[str]:
    """Best first: all of them for `auto`."""
    return list(TRANSPORTS) if setting == AUTO else [setting]


def choose(ours: Collection[str], theirs: Collection[str], same_host: bool) -> str | None:
    """The best transport that both ends have; None where they have none in common.

    `same_host`: the ends' `host_identity` is the same, which nvlink_intra needs.
    """
    for transport in TRANSPORTS:
        if transport in ours and transport in theirs and (same_host or transport != "nvlink_intra"):
            return transport
    return None


def host_identity() -> str:
    """Equal for processes that can open each other's GPU memory.

    They are of one boot of one host, in one PID namespace, and have the device files of the same GPUs.

    CUDA names the owner of shared memory by its PID, so that a process of another namespace fails, and its CUDA context
    with it. In a container with its own GPU alone the memory of another GPU cannot be opened: each write fails.
    """
    gpus = sorted(file.name for file in DEVICES.glob("nvidia[0-9]*"))
    return "-".join([BOOT_ID.read_text().strip(), str(NAMESPACE.stat().st_ino), *gpus])


def obstacle(transport: str, device_name: str, cuda_build: bool) -> str:
    """Why this machine cannot use the transport, in one line; empty when nothing speaks against it.

    `device_name`: RDMA devices separated by commas, all where it is empty; `cuda_build`: of Mooncake.
    """
    if transport == "nvlink_intra" and not cuda_build:
        return "MOONCAKE_PROTOCOL='nvlink_intra': expected the CUDA builds of vLLM and Mooncake, found those for CPUs"
    if transport == "rdma":
        found = sorted(device.name for device in RDMA_DEVICES.iterdir()) if RDMA_DEVICES.is_dir() else []
        if not found:
            return f"MOONCAKE_PROTOCOL='rdma': expected an RDMA device in {RDMA_DEVICES}, found none"
        if missing := set(filter(None, device_name.split(","))) - set(found):
            return (
                f"MOONCAKE_DEVICE_NAME={device_name!r}: expected some of {', '.join(found)}, "
                f"found no {', '.join(sorted(missing))}"
            )
        return _gid_obstacle(set(filter(None, device_name.split(","))) or set(found))
    return ""


def _gid_obstacle(devices: Collection[str]) -> str:
    """Where a variable names the GID, every device must have it; Mooncake only says that it did not start."""
    index = os.environ.get("MC_GID_INDEX", "")
    for device in sorted(devices) if index else ():
        table = RDMA_DEVICES / device / "ports" / os.environ.get("MC_IB_PORT", "1") / "gids"
        filled = sorted(int(gid.name) for gid in table.glob("*") if gid.read_text().strip(" 0:\n"))
        if index not in map(str, filled):
            return (
                f"MC_GID_INDEX={index!r}: expected one of {', '.join(map(str, filled)) or 'none'}, which {device} has"
            )
    return ""


def progress_timeout(write_timeout: float) -> int:
    """Seconds without progress after which Mooncake fails a piece over TCP, whose bytes may still be on their way."""
    return max(1, int(write_timeout / HANGING_ROUNDS))


def prepare_environment(transport: str, host: str, write_timeout: float) -> None:
    """Set what the next engine of this process reads at its start.

    `host`: the address that it publishes; `write_timeout`: seconds within which a write has ended, whatever happens.
    """
    for other in TRANSPORTS.values():
        os.environ.pop(other.forced_by, None)
    chosen = TRANSPORTS[transport]
    os.environ[chosen.forced_by] = "1"
    for variable, value in chosen.tuned_by.items():
        os.environ.setdefault(variable, value)
    # With etcd as metadata server the engine otherwise publishes the first address that is not loopback.
    os.environ["MC_TCP_BIND_ADDRESS"] = host
    if addresses.is_ipv6(host):
        os.environ["MC_USE_IPV6"] = "1"  # for what its engines tell each other before they move data over RDMA
    os.environ["MC_TRANSFER_TIMEOUT"] = str(round(write_timeout))  # of nvlink_intra's batches
    os.environ["MC_TCP_PROGRESS_TIMEOUT_SEC"] = os.environ["MC_TCP_STATUS_TIMEOUT_SEC"] = str(
        progress_timeout(write_timeout)
    )
    os.environ.setdefault("MC_LOG_LEVEL", "WARNING")

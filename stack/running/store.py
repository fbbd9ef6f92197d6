"""A KV store that instances share (docs/store.md), as processes: one or two masters, who know what is where, and an
owner."""

from collections.abc import Sequence
from pathlib import Path

from stack.configuration.settings import StackSettings
from stack.installation import environments
from stack.network import addresses
from stack.running.service import Service
from stack.store import cluster

GRACE_S = 5.0
EVERYWHERE = "0.0.0.0"
WITH_DISK = "--enable_offload"  # of masters and owners
ON_THEIR_WAY_BYTES = 256 << 20  # from a disk to instances, in memory beside the owner's
FILES = {
    # Mooncake 0.3.13 writes full files only and forgets to write what is left over of each second's saves (its issue
    # 3006): a block each, so that nothing is.
    "MOONCAKE_OFFLOAD_BUCKET_KEYS_LIMIT": "1",
    # A larger block is not written, and one that does not fit on its way could not be read.
    "MOONCAKE_OFFLOAD_BUCKET_SIZE_LIMIT_BYTES": str(ON_THEIR_WAY_BYTES),
    "MOONCAKE_OFFLOAD_HEARTBEAT_INTERVAL_SECONDS": "1",
    "MOONCAKE_OFFLOAD_LOCAL_BUFFER_SIZE_BYTES": str(ON_THEIR_WAY_BYTES),
}
# Mooncake counts bytes, and a block's two files take up to 4 KiB each beyond theirs: this much of the disk's bytes is
# for blocks of 64 KiB and larger ones. It could also count what files take, by looking at each of them before a write.
FOR_BYTES = (8, 9)
IO_THREADS = {"MC_NUM_TCP_IO_THREADS": "8"}  # of Mooncake's CUDA build alone
CUDA_LIBRARIES = "nvidia/cu13/lib"  # of NVIDIA's packages, which PyTorch needs


def master(settings: StackSettings) -> str:
    """What STORE_MASTER says to this stack's instances."""
    if settings.store_masters > 1:
        return cluster.address(settings.etcd)
    return addresses.join(settings.host_ip, settings.store_port)


def services(settings: StackSettings) -> tuple[Service, Service]:
    """They find each other, and the instances them, in whatever order they start."""
    first, host = settings.store_port, settings.host_ip
    # Another master's ports come behind the owner's.
    rpcs, https = (tuple(range(first + i, first + 4 * settings.store_masters, 4)) for i in (0, 1))
    owner_rpc, owner_http = first + 2, first + 3
    programs = environments.vllm(settings).python(settings).parent
    disk = settings.store_disk
    if settings.store_masters > 1:
        of_masters = standing_by_command(programs, host, rpcs, https, settings.etcd)
    else:
        of_masters = master_command(programs, host, *rpcs, *https)
    of_owner = owner_command(programs, host, owner_rpc, owner_http, master(settings), settings.store_bytes)
    if disk is not None:
        of_masters, of_owner = (*of_masters, WITH_DISK), (*of_owner, WITH_DISK)
    if settings.store_masters > 1 or disk is not None:  # which Mooncake's own program would start too early
        of_owner = (str(programs / "python"), "-m", "stack.store.owner", master(settings), *of_owner)
    return (
        Service(
            "store-master",
            of_masters,
            https,
            "STORE_PORT",
            "/health",
            host,
            GRACE_S,
            other_ports=rpcs,
            replicas_variable="STORE_MASTERS",
        ),
        Service(
            "store",
            of_owner,
            (owner_http,),
            "STORE_PORT",
            "/health",
            grace_s=GRACE_S,
            environment={
                **_environment(settings),
                **cluster.of_clients(master(settings)),
                **(on_disk(disk, settings.store_disk_bytes) if disk is not None else {}),
            },
            other_ports=(owner_rpc,),
        ),
    )


def master_command(programs: Path, host: str, rpc: int, http: int) -> tuple[str, ...]:
    """`programs`: the folder of Mooncake's."""
    return (
        str(programs / "mooncake_master"),
        f"--rpc_address={host}",
        f"--rpc_port={rpc}",
        f"--metrics_host={host}",
        f"--metrics_port={http}",
    )


def standing_by_command(
    programs: Path, host: str, rpcs: Sequence[int], https: Sequence[int], etcd: str
) -> tuple[str, ...]:
    """Of each master that stands by for the others; which one it is INSTANCE_INDEX says."""
    return (
        str(programs / "python"),
        "-m",
        "stack.store.master",
        f"--host={host}",
        f"--rpc-ports={','.join(map(str, rpcs))}",
        f"--http-ports={','.join(map(str, https))}",
        f"--etcd={etcd}",
    )


def owner_command(programs: Path, host: str, rpc: int, http: int, master: str, size: int) -> tuple[str, ...]:
    """`master` is its host:port, or the etcd of several; `size` in bytes."""
    return (
        str(programs / "mooncake_client"),
        f"--host={host}",
        f"--port={rpc}",
        f"--master_server_address={master}",
        "--metadata_server=P2PHANDSHAKE",
        "--protocol=tcp",
        f"--global_segment_size={size}",
        "--enable_http_server",
        f"--http_port={http}",  # on every address, as the ports of its data
    )


def on_disk(folder: Path, size: int) -> dict[str, str]:
    """The owner's variables where it also writes to `folder`, which has to be there, and takes `size` bytes there."""
    part, whole = FOR_BYTES
    return {
        "MOONCAKE_OFFLOAD_FILE_STORAGE_PATH": str(folder),
        "MOONCAKE_OFFLOAD_TOTAL_SIZE_LIMIT_BYTES": str(size),
        "MOONCAKE_OFFLOAD_BUCKET_MAX_TOTAL_SIZE": str(size * part // whole),
        "MOONCAKE_OFFLOAD_BUCKET_EVICTION_POLICY": "lru",
        **FILES,
    }


def on_gpus(packages: Path) -> dict[str, str]:
    """The owner's variables where it is a CUDA program, for which the loader has to find CUDA's library in `packages`.

    It uses no GPU and is shown none.
    """
    return {"LD_LIBRARY_PATH": str(packages / CUDA_LIBRARIES), "CUDA_VISIBLE_DEVICES": "", **IO_THREADS}


def _environment(settings: StackSettings) -> dict[str, str]:
    folder = environments.vllm(settings).folder(settings)
    return on_gpus(folder / f"lib/python{environments.LOCKED_PYTHON}/site-packages") if settings.uses_gpu else {}

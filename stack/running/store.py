"""A KV store that instances share (docs/store.md), as processes: a master, who knows what is where, and an owner."""

from pathlib import Path

from stack.configuration.settings import StackSettings
from stack.installation import environments
from stack.network import addresses
from stack.running.service import Service

GRACE_S = 5.0
EVERYWHERE = "0.0.0.0"
CUDA_LIBRARIES = "nvidia/cu13/lib"  # of NVIDIA's packages, which PyTorch needs


def master(settings: StackSettings) -> str:
    """What STORE_MASTER says to this stack's instances."""
    return addresses.join(settings.host_ip, settings.store_port)


def services(settings: StackSettings) -> tuple[Service, Service]:
    """They find each other, and the instances them, in whatever order they start."""
    rpc, http, owner_rpc, owner_http = range(settings.store_port, settings.store_port + 4)
    host = settings.host_ip
    programs = environments.vllm(settings).python(settings).parent
    of_master = master_command(programs, host, rpc, http)
    of_owner = owner_command(programs, host, owner_rpc, owner_http, master(settings), settings.store_bytes)
    return (
        Service("store-master", of_master, (http,), "STORE_PORT", "/health", host, GRACE_S, other_ports=(rpc,)),
        Service(
            "store",
            of_owner,
            (owner_http,),
            "STORE_PORT",
            "/health",
            grace_s=GRACE_S,
            environment=_environment(settings),
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


def owner_command(programs: Path, host: str, rpc: int, http: int, master: str, size: int) -> tuple[str, ...]:
    """`master` is its host:port, `size` in bytes."""
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


def on_gpus(packages: Path) -> dict[str, str]:
    """The owner's variables where it is a CUDA program, for which the loader has to find CUDA's library in `packages`.

    It uses no GPU and is shown none.
    """
    return {"LD_LIBRARY_PATH": str(packages / CUDA_LIBRARIES), "CUDA_VISIBLE_DEVICES": ""}


def _environment(settings: StackSettings) -> dict[str, str]:
    folder = environments.vllm(settings).folder(settings)
    return on_gpus(folder / f"lib/python{environments.LOCKED_PYTHON}/site-packages") if settings.uses_gpu else {}

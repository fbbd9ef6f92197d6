"""A KV store that instances share (docs/store.md), as processes: a master, who knows what is where, and an owner."""

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
    of_master = (
        _program(settings, "mooncake_master"),
        f"--rpc_address={host}",
        f"--rpc_port={rpc}",
        f"--metrics_host={host}",
        f"--metrics_port={http}",
    )
    of_owner = (
        _program(settings, "mooncake_client"),
        f"--host={host}",
        f"--port={owner_rpc}",
        f"--master_server_address={master(settings)}",
        "--metadata_server=P2PHANDSHAKE",
        "--protocol=tcp",
        f"--global_segment_size={settings.store_bytes}",
        "--enable_http_server",
        f"--http_port={owner_http}",  # on every address, as the ports of its data
    )
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


def _environment(settings: StackSettings) -> dict[str, str]:
    """Of the owner, which is a CUDA program in the environment for GPUs: the loader has to find CUDA's library. It uses
    no GPU and is shown none.
    """
    if not settings.uses_gpu:
        return {}
    packages = environments.vllm(settings).folder(settings) / f"lib/python{environments.LOCKED_PYTHON}/site-packages"
    return {"LD_LIBRARY_PATH": str(packages / CUDA_LIBRARIES), "CUDA_VISIBLE_DEVICES": ""}


def _program(settings: StackSettings, name: str) -> str:
    return str(environments.vllm(settings).python(settings).with_name(name))

"""What one vLLM server is told where instances share a store (STORE_MASTER): connectors, a file, variables."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from connector.cache.fingerprint import fingerprint
from connector.mooncake.transports import TRANSPORTS
from stack.instances.settings import LauncherSettings
from stack.store import cluster

LOCAL_BUFFER_BYTES = 128 << 20  # through which the client moves what it cannot register
# Where loads over TCP are slower than computing: on an H200 (Qwen2.5-7B's shape) 1.53 times as long for 512 tokens and
# 0.79 for 2,000, on two CPU cores 0.78 times for the one block of 64 (docs/benchmarks/README.md).
FEWEST_TOKENS_ON_GPUS = 1536


def kv_transfer_config(
    settings: LauncherSettings,
    instance_id: str,
    others: Sequence[Mapping[str, object]],
    pairing: Mapping[str, str],
    vllm_version: str,
) -> dict[str, object]:
    """vLLM's, of the store's connector behind `others`, which lose the id and the policy: those are of all together.

    A load that fails is computed on whatever KV_LOAD_FAILURE_POLICY says of transfers, except on a consumer, which
    loads nothing from the store.
    """
    role = {"prefill": "kv_producer", "decode": "kv_consumer", "aggregated": "kv_both"}[settings.role]
    consumes = settings.role == "decode"
    stores: dict[str, object] = {
        "kv_connector": "BoundedStoreConnector",
        "kv_connector_module_path": "connector.store.connectors",
        "kv_role": role,
        "kv_connector_extra_config": {
            # Of two servers of one host each needs its own socket, and the second would unlink the first one's.
            "lookup_rpc_port": instance_id.rpartition("-")[2][-8:],
            "cache_prefix": cache_prefix(settings, pairing, vllm_version),
            # On a consumer the producer's cache is on its way: it only gives the answer's, for the next turn's prompt.
            "enable_lookup": not consumes,
            "save_decode_cache": settings.role != "prefill",
            "lookup_timeout": settings.store_lookup_timeout_s,
            "load_timeout": settings.store_load_timeout_s,
            "load_min_tokens": _fewest_tokens(settings, vllm_version),
        },
    }
    common = {
        "engine_id": instance_id,
        "kv_load_failure_policy": settings.kv_load_failure_policy if consumes else "recompute",
    }
    if not others:
        return {**common, **stores}
    return {
        **common,
        "kv_connector": "MultiConnector",
        "kv_connector_module_path": "connector.store.connectors",
        "kv_role": role,
        "kv_connector_extra_config": {"connectors": [*others, stores]},
    }


def _fewest_tokens(settings: LauncherSettings, vllm_version: str) -> int:
    """That are worth a load. The CPU build says so in its version."""
    if settings.store_load_min_tokens is not None:
        return settings.store_load_min_tokens
    return 0 if vllm_version.endswith("+cpu") else FEWEST_TOKENS_ON_GPUS


def cache_prefix(settings: LauncherSettings, pairing: Mapping[str, str], vllm_version: str) -> str:
    """Of every key: servers of one prefix have caches of the same bytes for the same tokens.

    More than what a transfer needs, as nobody compares layouts here: vLLM's own keys hold a rank's number, not how
    many there are, and a server without the streaming connector may choose another order of values.
    """
    return fingerprint(
        **pairing,
        tensor_parallel_size=settings.tensor_parallel_size,
        pipeline_parallel_size=settings.pipeline_parallel_size,
        aggregated=settings.role == "aggregated",
        vllm=vllm_version,
    )


def shared(settings: LauncherSettings, pairing: Mapping[str, str], vllm_version: str) -> str:
    """What dispatch tells by who finds the same there; empty without a store."""
    return f"{settings.store_address}/{cache_prefix(settings, pairing, vllm_version)}" if settings.store_master else ""


def environment(settings: LauncherSettings, folder: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """Variables of vLLM beside the others; writes the store's file, which is not the stack's own `mooncake.json`."""
    file = Path(folder, "store.json")
    content = {
        "mode": "standalone-store",  # it gives no memory of its own, which would go away with it
        "metadata_server": "P2PHANDSHAKE",
        "master_server_address": settings.store_address,
        "protocol": "tcp",  # over RDMA a failed save could write over another value (docs/store.md)
        "device_name": "",
        "global_segment_size": 0,
        "local_buffer_size": LOCAL_BUFFER_BYTES,
    }
    file.write_text(json.dumps(content))
    # The streaming connector sets these too, but where it moves caches over TCP itself.
    variables = {**TRANSPORTS["tcp"].tuned_by, **cluster.of_clients(settings.store_address)}
    told = {name: inherited.get(name) or value for name, value in variables.items()}
    return {**told, "MOONCAKE_CONFIG_PATH": str(file)}

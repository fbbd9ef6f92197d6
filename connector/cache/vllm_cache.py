"""What of vLLM's KV cache can be moved, what both sides must have in common, and where it lies in memory."""

import dataclasses
import json
from typing import TYPE_CHECKING

import torch
from vllm.v1.kv_cache_interface import FullAttentionSpec

from connector.cache.layout import KVLayout, fingerprint

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

# Ways of spreading a model over processes that would leave a rank with other layers, tokens or requests than ours know.
UNSPLIT = (
    "pipeline_parallel_size",
    "data_parallel_size",
    "decode_context_parallel_size",
    "prefill_context_parallel_size",
)


def movable_block_size(vllm_config: "VllmConfig", kv_cache_config: "KVCacheConfig", role: str | None) -> int:
    """Tokens in a block of the one cache group that this connector can move.

    Raises: ValueError: for anything it cannot move, so that nothing is ever served wrong.
    """
    parallel = vllm_config.parallel_config
    if role not in ("kv_producer", "kv_consumer"):
        raise ValueError(f"kv_role={role!r}: expected kv_producer or kv_consumer")
    for name in UNSPLIT:
        if getattr(parallel, name) > 1:
            raise ValueError(f"{name}={getattr(parallel, name)}: KV transfer supports only 1")
    # Inside a data-parallel engine of a dense model vLLM sets the size back to 1; what is left is the engine's id
    # (v1/engine/core.py, run_engine_core).
    engine_id = vllm_config.kv_transfer_config.engine_id if vllm_config.kv_transfer_config else None
    if (engine_id or "").endswith(f"_dp{parallel.data_parallel_index}"):
        raise ValueError(f"data_parallel_size above 1 (engine {engine_id}): KV transfer supports only 1")
    if vllm_config.speculative_config is not None:
        raise ValueError("speculative decoding is not supported together with KV transfer")
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1 or not isinstance(groups[0].kv_cache_spec, FullAttentionSpec):
        kinds = ", ".join(type(group.kv_cache_spec).__name__ for group in groups)
        raise ValueError(f"KV cache groups ({kinds}): KV transfer supports one group of full attention")
    return int(groups[0].kv_cache_spec.block_size)


def separable_heads(vllm_config: "VllmConfig") -> int:
    """KV heads of the whole model; where a rank's heads are interleaved in memory, they count as one."""
    model, ranks = vllm_config.model_config, vllm_config.parallel_config.tensor_parallel_size
    if model.use_mla:
        return 1
    contiguous = vllm_config.cache_config.get_resolved_kv_cache_layout().is_block_contiguous
    return int(model.get_total_num_kv_heads()) if contiguous else int(ranks)


def cache_facts(vllm_config: "VllmConfig", kv_cache_config: "KVCacheConfig", pairing: str, total_heads: int) -> str:
    """Everything that both sides must have in common, as a JSON object that names each fact in a refusal."""
    group, cache, model = kv_cache_config.kv_cache_groups[0], vllm_config.cache_config, vllm_config.model_config
    whole = dataclasses.replace(group.kv_cache_spec, num_kv_heads=total_heads)  # the same for every split into ranks
    facts = {
        "model": pairing,
        # As vLLM has settled them, be it by a file that the launcher does not read (`--config`).
        "computed in": f"{model.dtype}, quantization {model.quantization}",
        "load format": str(vllm_config.load_config.load_format),
        "cache": repr(whole),
        "cache type": str(cache.cache_dtype),  # both fp8 types are bytes to the specification
        "layers": f"{len(group.layer_names)} ({fingerprint(names=sorted(group.layer_names))})",
        "layout": cache.get_resolved_kv_cache_layout().name,
    }
    return json.dumps(facts, sort_keys=True)


def layout_of(kv_caches: dict[str, torch.Tensor], num_blocks: int, heads: range) -> KVLayout:
    """Where blocks lie, from vLLM's per-layer views, each [blocks, heads, tokens, features].

    A view may count smaller kernel blocks than the scheduler does; they are neighbours of each other.
    """
    geometry = set()
    for name, cache in kv_caches.items():
        ratio, rest = divmod(cache.shape[0], num_blocks)
        stride, page = cache.stride(0) * cache.element_size(), cache[0].nbytes
        span = (
            1 + sum((n - 1) * s for n, s in zip(cache[0].shape, cache[0].stride(), strict=True))
        ) * cache.element_size()
        if rest or span != page or (ratio > 1 and stride != page):
            raise ValueError(
                f"layer {name}: cache {tuple(cache.shape)} with strides {cache.stride()} has no dense blocks"
            )
        if ratio > 1 and len(heads) > 1:
            raise ValueError(
                f"BLOCK_SIZE: vLLM splits a block into {ratio}, which scatters heads: divide it by {ratio}"
            )
        geometry.add((ratio * stride, ratio * page))
    if len(geometry) != 1:
        raise ValueError(f"layers differ in block size (stride, page in bytes): {sorted(geometry)}")
    ((block_stride, page),) = geometry
    addresses = tuple(cache.data_ptr() for cache in kv_caches.values())
    return KVLayout(addresses, block_stride, page // len(heads), heads.start, len(heads), num_blocks)

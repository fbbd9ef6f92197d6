"""Where vLLM's KV cache lies in memory, and what both sides must have in common: as only a worker sees it.

The scheduler's copy of the configuration is worker 0's, with an arbitrary layer in place of layers that differ.
"""

import dataclasses
import json
from typing import TYPE_CHECKING

import torch
from vllm.v1.kv_cache_interface import AttentionSpec, MambaSpec, UniformTypeKVCacheSpecs

from connector.cache.heads import heads_of_rank
from connector.cache.layout import CacheGroup, CacheLayer, KVLayout
from connector.cache.movable import groups_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheSpec


def layout_of(
    kv_caches: dict[str, torch.Tensor],
    kv_cache_config: "KVCacheConfig",
    vllm_config: "VllmConfig",
    rank: int,
    pairing: str,
) -> KVLayout:
    """Of this rank, from vLLM's views of each layer: [blocks, heads, tokens, features], or a state as [blocks, 1, 1,
    bytes]. Names of layers that share the cache of another one are left out.

    Args: rank: among those that split the heads of its pipeline stage.
    Raises: ValueError: for a layer whose blocks cannot be written one by one, and for a stage without a layer.
    """
    ranks = vllm_config.parallel_config.tensor_parallel_size
    groups = groups_of(kv_cache_config, vllm_config.model_config.max_model_len)
    candidates = _numbers_of_heads(vllm_config)
    layers = []
    for number, group in enumerate(kv_cache_config.kv_cache_groups):
        addresses: set[int] = set()
        for name in group.layer_names:
            tensor = kv_caches[name]
            if not isinstance(tensor, torch.Tensor):
                raise ValueError(f"layer {name}: expected its cache as one tensor, found {type(tensor).__name__}")
            if tensor.data_ptr() in addresses:
                continue
            addresses.add(tensor.data_ptr())
            spec = _spec_of(group.kv_cache_spec, name)
            view = _View(name, tensor, kv_cache_config.num_blocks)
            apart = isinstance(spec, AttentionSpec) and view.has_separable_heads(spec.num_kv_heads)
            all_heads = _all_heads(spec, ranks, candidates) if apart else _copies(spec, ranks)
            heads = heads_of_rank(rank, ranks, all_heads)
            cache = _whole(spec, all_heads) if apart else f"{spec} on {ranks} ranks"
            layers.append(view.layer(number, heads, all_heads, f"group {number}, {cache}"))
    stages = vllm_config.parallel_config.pipeline_parallel_size
    if not layers:
        raise ValueError(f"pipeline_parallel_size={stages}: expected a layer with a KV cache on each stage")
    facts, lookahead = _facts(vllm_config, groups, pairing), vllm_config.num_prefill_lookahead_tokens
    return KVLayout(groups, tuple(layers), kv_cache_config.num_blocks, facts, lookahead, stages)


@dataclasses.dataclass(frozen=True)
class _View:
    """A layer's cache. It may count smaller kernel blocks than the scheduler does; those of a block are neighbours."""

    name: str
    cache: torch.Tensor
    num_blocks: int

    def __post_init__(self) -> None:
        rest = self.cache.shape[0] % self.num_blocks
        first = self.cache[0]
        span = (
            1 + sum((n - 1) * s for n, s in zip(first.shape, first.stride(), strict=True))
        ) * self.cache.element_size()
        split_with_gaps = self._kernel_blocks > 1 and self._stride != first.nbytes
        if rest or self._kernel_blocks < 1 or span != first.nbytes or split_with_gaps:
            raise ValueError(
                f"layer {self.name}: cache {tuple(self.cache.shape)} with strides {self.cache.stride()} has no dense "
                f"blocks ({self.num_blocks} of them)"
            )

    @property
    def _kernel_blocks(self) -> int:
        """In a block."""
        return int(self.cache.shape[0]) // self.num_blocks

    @property
    def _stride(self) -> int:
        return int(self.cache.stride(0) * self.cache.element_size())

    def has_separable_heads(self, heads: int) -> bool:
        """Whether a head of a block is one piece of memory, so that the two sides may split heads differently."""
        one_by_one = self._kernel_blocks == 1 and self.cache.dim() == 4 and self.cache.shape[1] == heads
        return heads == 1 or (one_by_one and int(self.cache.stride(1)) == self.cache[0, 0].numel())

    def layer(self, group: int, heads: range, all_heads: int, cache: str) -> CacheLayer:
        return CacheLayer(
            name=self.name,
            group=group,
            address=self.cache.data_ptr(),
            block_stride=self._kernel_blocks * self._stride,
            head_bytes=self._kernel_blocks * self.cache[0].nbytes // len(heads),
            first_head=heads.start,
            heads=len(heads),
            all_heads=all_heads,
            cache=cache,
        )


def _spec_of(spec: "KVCacheSpec", name: str) -> "KVCacheSpec":
    return spec.kv_cache_specs[name] if isinstance(spec, UniformTypeKVCacheSpecs) else spec


def _numbers_of_heads(vllm_config: "VllmConfig") -> set[int]:
    """Every number of KV heads that the model's configuration names; its layers may differ."""
    model = vllm_config.model_config
    named = model.hf_text_config.to_dict()
    found = {value for name, value in named.items() if "key_value_heads" in name and isinstance(value, int) and value}
    return found | {model.get_total_num_kv_heads()}


def _all_heads(spec: AttentionSpec, ranks: int, candidates: set[int]) -> int:
    """KV heads of the layer on all ranks together. Where it cannot be told whether neighbours hold the same head, each
    rank's counts as its own: with another number of ranks on the other side such a layer is refused, never mixed up."""
    if spec.max_tp_shards is not None:
        return int(spec.num_kv_heads) * min(ranks, int(spec.max_tp_shards))
    fitting = {total for total in candidates if max(1, total // ranks) == spec.num_kv_heads}
    return fitting.pop() if len(fitting) == 1 else int(spec.num_kv_heads) * ranks


def _copies(spec: "KVCacheSpec", ranks: int) -> int:
    """Of what cannot be told apart: as many different ones as there are ranks, or the same on every rank."""
    return 1 if isinstance(spec, MambaSpec) and spec.tp_replicated else ranks


def _whole(spec: AttentionSpec, all_heads: int) -> str:
    """The same for every split into ranks."""
    return repr(dataclasses.replace(spec, num_kv_heads=all_heads, page_size_padded=None))


def _facts(vllm_config: "VllmConfig", groups: tuple[CacheGroup, ...], pairing: str) -> str:
    """Nothing of the layers, of which each stage of a pipeline sees its own alone."""
    cache, model = vllm_config.cache_config, vllm_config.model_config
    facts = {
        "model": pairing,
        # As vLLM has settled them, be it by a file that the launcher does not read (`--config`).
        "computed in": f"{model.dtype}, quantization {model.quantization}",
        "load format": str(vllm_config.load_config.load_format),
        "cache": [f"{group.kind.value}, {group.block_tokens} tokens a block" for group in groups],
        "cache type": str(cache.cache_dtype),  # both fp8 types are bytes to the specification
        "layout": cache.get_resolved_kv_cache_layout().name,
        "draft": f"reads {vllm_config.num_prefill_lookahead_tokens} tokens ahead",
    }
    return json.dumps(facts, sort_keys=True)

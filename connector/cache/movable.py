"""What of vLLM's KV cache can be moved: its groups, or in one line why not."""

from typing import TYPE_CHECKING

from vllm.platforms import current_platform
from vllm.v1 import kv_cache_interface as kinds

from connector.cache.layout import CacheGroup, Kind

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheSpec

# Ways of spreading a model over processes that would leave a rank with other tokens or requests than ours know.
UNSPLIT = (
    "decode_context_parallel_size",
    "prefill_context_parallel_size",
)
# By vLLM's classes; a subclass comes before its parent. None: cannot be moved.
KINDS: tuple[tuple[type, Kind | None], ...] = (
    (kinds.MambaSpec, Kind.STATE),
    (kinds.CircularBufferSpec, Kind.STATE),  # the tokens that DeepSeek V4 has not compressed yet
    (kinds.SlidingWindowSpec, Kind.WINDOW),
    (kinds.ChunkedLocalAttentionSpec, Kind.CHUNK),
    (kinds.SinkFullAttentionSpec, None),  # blocks that belong to no request
    (kinds.CrossAttentionSpec, None),  # the encoder's, which no prompt's length tells
    (kinds.HiddenStateCacheSpec, None),
    (kinds.FullAttentionSpec, Kind.FULL),
)

# Names of a draft model's layers begin so (vLLM's v1/spec_decode/draft_model.py). Where a draft's windows are a group
# of their own beside full attention, vLLM 0.32 answers wrong, without any transfer too.
DRAFT_MODEL = "draft_model."


def refuse_unmovable(vllm_config: "VllmConfig", role: str | None) -> None:
    """So that nothing is ever served wrong.

    Raises: ValueError: for a way of serving with which nothing can be moved.
    """
    parallel = vllm_config.parallel_config
    if role not in ("kv_producer", "kv_consumer"):
        raise ValueError(f"kv_role={role!r}: expected kv_producer or kv_consumer")
    for name in UNSPLIT:
        if getattr(parallel, name) > 1:
            raise ValueError(f"{name}={getattr(parallel, name)}: KV transfer supports only 1")
    stages = parallel.pipeline_parallel_size
    if stages > 1 and vllm_config.speculative_config is not None:
        raise ValueError(
            f"pipeline_parallel_size={stages} together with speculative decoding: KV transfer supports only one of them"
        )
    # Of a dense model's engines vLLM sets the size back to 1: they know nothing of each other.
    if parallel.data_parallel_size > 1 and current_platform.is_cpu():
        raise ValueError(
            f"data_parallel_size={parallel.data_parallel_size}: vLLM cannot exchange experts' tokens between engines "
            "on a CPU and would end with the first request; expected 1 for a model with experts"
        )


def groups_of(kv_cache_config: "KVCacheConfig", max_model_len: int) -> tuple[CacheGroup, ...]:
    """Raises: ValueError: for a group that cannot be moved, with the reason."""
    groups = []
    for number, group in enumerate(kv_cache_config.kv_cache_groups):
        name = next(iter(group.layer_names), f"other stages, number {number}")
        if group.host_resident or not group.enable_kv_transfer:
            raise ValueError(f"KV cache group of {name}: KV transfer does not support HiSparse")
        spec = group.kv_cache_spec
        # A ring is one block for the whole request, however long that gets.
        ring = isinstance(spec, kinds.CircularBufferSpec)
        groups.append(CacheGroup(kind_of(spec), max_model_len if ring else int(spec.block_size)))
        if group.layer_names and all(name.startswith(DRAFT_MODEL) for name in group.layer_names):
            raise ValueError(
                f"KV cache group of {name}: "
                "a draft model in a group of its own changes vLLM's answers: "
                "expected it in a group of the target's, as with --disable-hybrid-kv-cache-manager"
            )
    if not groups:
        raise ValueError("the model has no KV cache: there is nothing to transfer")
    return tuple(groups)


def kind_of(spec: "KVCacheSpec") -> Kind:
    """Raises: ValueError: for a kind of cache that cannot be moved."""
    if isinstance(spec, kinds.UniformTypeKVCacheSpecs):
        found = {kind_of(each) for each in spec.kv_cache_specs.values()}
        if len(found) == 1:
            return found.pop()
    for known, kind in KINDS:
        if isinstance(spec, known):
            if kind is None:
                break
            return kind
    raise ValueError(f"KV cache of {type(spec).__name__}: KV transfer does not support this kind of layer")

"""Which caches the store can hold, or in one line why not."""

from collections.abc import Iterable, Iterator

# Of vLLM's classes: the encoder's, which no prompt's tokens name, and blocks that belong to no request.
UNSTORABLE = ("CrossAttentionSpec", "SinkFullAttentionSpec")
WITH_PREFIXES = "align"  # the mode in which vLLM keeps the state behind a prompt's beginning


def refuse_unstorable(specs: Iterable[object]) -> None:
    """Args: specs: vLLM's, of the cache's groups.

    Raises: ValueError: for a cache that could not be saved, or not be gone on from.
    """
    for spec in _each(specs):
        name = type(spec).__name__
        mode = getattr(spec, "mamba_cache_mode", WITH_PREFIXES)
        if mode != WITH_PREFIXES:
            raise ValueError(
                f"--mamba-cache-mode {mode}: with a KV store expected {WITH_PREFIXES}, which is the default with "
                "--enable-prefix-caching; or no STORE_MASTER"
            )
        if name in UNSTORABLE:
            raise ValueError(f"KV cache of {name}: a KV store cannot hold this kind of layer; expected no STORE_MASTER")
        if getattr(spec, "non_causal", False):
            raise ValueError(
                f"KV cache of {name}: in these layers a prompt's beginning depends on its end, so a KV store cannot "
                "hold it; expected no STORE_MASTER"
            )


def _each(specs: Iterable[object]) -> Iterator[object]:
    """In one group may be layers of unequal pages."""
    for spec in specs:
        of_layers = getattr(spec, "kv_cache_specs", None)
        yield from of_layers.values() if of_layers else (spec,)

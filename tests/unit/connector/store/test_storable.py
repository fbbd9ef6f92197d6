"""A server whose cache the store cannot hold ends at the start, with the reason."""

from dataclasses import dataclass, field

import pytest

from connector.store.storable import refuse_unstorable


@dataclass
class FullAttentionSpec:
    non_causal: bool = False


class CrossAttentionSpec(FullAttentionSpec):
    pass


@dataclass
class MambaSpec:
    mamba_cache_mode: str


@dataclass
class UniformTypeKVCacheSpecs:
    kv_cache_specs: dict[str, object] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (CrossAttentionSpec(), "KV cache of CrossAttentionSpec: a KV store cannot hold"),
        (FullAttentionSpec(non_causal=True), "KV cache of FullAttentionSpec: in these layers"),
        (MambaSpec("none"), "--mamba-cache-mode none: with a KV store expected align"),
    ],
)
def test_what_is_refused_is_named_in_one_line(spec: object, named: str) -> None:
    for specs in ([FullAttentionSpec(), spec], [UniformTypeKVCacheSpecs({"1": FullAttentionSpec(), "2": spec})]):
        with pytest.raises(ValueError, match=named) as refused:
            refuse_unstorable(specs)
        assert "no STORE_MASTER" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_the_rest_is_stored() -> None:
    refuse_unstorable([FullAttentionSpec(), MambaSpec("align"), UniformTypeKVCacheSpecs({"1": FullAttentionSpec()})])

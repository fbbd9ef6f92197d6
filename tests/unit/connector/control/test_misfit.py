"""Whether a registration fits the cache of the producer's rank, line by line."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from connector.control.messages import GroupBlocks, LayerPlace, Register
from connector.control.misfit import misfit
from tests.unit.connector.fake_layouts import MIXED, MIXED_SHAPES, MIXED_TARGET, Shape, layer_by_layer, places
from tests.unit.connector.transfer.one_share import registration

# The second of two ranks: of four KV heads it has the last two.
OURS = layer_by_layer(MIXED, [Shape(0, 2, 4, 2, 4), *MIXED_SHAPES[1:]])
WHOLE = [GroupBlocks(0, [1, 2, 3, 4, 5]), GroupBlocks(1, [7, 8]), GroupBlocks(1, [9])]
LAYERS = [LayerPlace("layer0", 0, 8, 2, 2), *places(MIXED_TARGET)[1:]]


def fitting(**changes: Any) -> Register:
    asked = msgspec.structs.replace(registration(WHOLE, 20, LAYERS), fingerprint="same")
    return msgspec.structs.replace(asked, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tokens": 17},
        {"layers": []},
        {"layers": LAYERS[:1]},
        {"layers": [LayerPlace("layer0", 0, 8, 3, 1)]},
        {"groups": [GroupBlocks(4, [5]), *WHOLE[1:]]},
        {"groups": [WHOLE[0], GroupBlocks(0, []), GroupBlocks(7, [])]},
    ],
    ids=str,
)
def test_it_fits(changes: dict[str, Any]) -> None:
    """A group of which nothing is wanted may end anywhere: there is no block to be put in a wrong place."""
    assert misfit(fitting(**changes), OURS) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fingerprint": "other"}, "wrong layout: the consumer's is 'other', ours 'same'"),
        ({"groups": WHOLE[:2]}, "wrong layout: the consumer has 2 groups of layers, we 3"),
        ({"groups": [*WHOLE, WHOLE[0]]}, "wrong layout: the consumer has 4 groups of layers, we 3"),
        ({"groups": [GroupBlocks(5, [])] * 3}, "bad registration: it names no block"),
        (
            {"groups": [GroupBlocks(0, [1, 2, 3, 4]), *WHOLE[1:]]},
            "bad registration: 20 tokens fill 5 blocks of group 0, those that it names end at 4",
        ),
        (
            {"groups": [GroupBlocks(1, [1, 2, 3, 4, 5]), *WHOLE[1:]]},
            "bad registration: 20 tokens fill 5 blocks of group 0, those that it names end at 6",
        ),
        (
            {"groups": [*WHOLE[:2], GroupBlocks(0, [9])]},
            "bad registration: 20 tokens fill 2 blocks of group 2, those that it names end at 1",
        ),
        ({"tokens": 21}, "bad registration: 21 tokens fill 6 blocks of group 0, those that it names end at 5"),
        ({"layers": [LayerPlace("layer9", 0, 8, 0, 1)]}, "wrong layout: layer layer9 is not on this rank"),
        (
            {"layers": [LayerPlace("layer0", 0, 8, 1, 2)]},
            "wrong layout: KV heads 1 to 2 of layer layer0 are not on this rank",
        ),
        (
            {"layers": [LayerPlace("layer0", 0, 8, 3, 2)]},
            "wrong layout: KV heads 3 to 4 of layer layer0 are not on this rank",
        ),
        (
            {"layers": [*LAYERS, LayerPlace("layer2", 0, 8, 0, 3)]},
            "wrong layout: KV heads 0 to 2 of layer layer2 are not on this rank",
        ),
    ],
    ids=str,
)
def test_it_does_not_fit(changes: dict[str, Any], reason: str) -> None:
    assert misfit(fitting(**changes), OURS) == reason


def test_layers_of_other_stages_fit() -> None:
    """Which has them is not known here."""
    asked = fitting(layers=[*LAYERS, LayerPlace("layer9", 0, 8, 0, 1)])
    assert misfit(asked, replace(OURS, stages=2)) == ""


def test_a_layer_that_is_kept_otherwise() -> None:
    layers = (replace(OURS.layers[0], cache="FullAttentionSpec(32)"), *OURS.layers[1:])
    asked = fitting(layers=[msgspec.structs.replace(LAYERS[0], cache="FullAttentionSpec(64)")])
    assert misfit(asked, replace(OURS, layers=layers)) == (
        "wrong layout: layer layer0: the consumer has FullAttentionSpec(64), we FullAttentionSpec(32)"
    )


def test_a_fact_that_differs_is_named() -> None:
    ours = replace(OURS, facts='{"cache type": "fp8", "model": "m"}')
    theirs = fitting(fingerprint='{"cache type": "auto", "model": "m"}')
    assert misfit(theirs, ours) == "wrong layout: cache type: the consumer has auto, we fp8"

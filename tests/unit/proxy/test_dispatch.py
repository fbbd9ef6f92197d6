"""Which pair serves a request: fixed inputs, one answer."""

from dataclasses import dataclass, field

import pytest

from proxy.dispatch import Load, choose, mismatch
from proxy.errors import ModelNotFound, NoInstance
from stack.instances import Instance
from tests.unit.proxy.scripted import MODEL, instance

P0, P1 = instance("prefill", "p0"), instance("prefill", "p1")
D0, D1 = instance("decode", "d0"), instance("decode", "d1")
OTHER_P = instance("prefill", "p2", fingerprint="other", dtype="bfloat16")
OTHER_D = instance("decode", "d2", fingerprint="other", dtype="bfloat16")
LORA_D = instance("decode", "d3", served_models=(MODEL, "adapter"))


@dataclass(frozen=True)
class Case:
    name: str
    instances: list[Instance]
    pair: tuple[str, str]
    loads: dict[str, Load] = field(default_factory=dict)
    avoid: frozenset[str] = frozenset()


CASES = [
    Case("one of each", [P0, D0], ("p0", "d0")),
    Case("idle and unused: by name", [P1, P0, D1, D0], ("p0", "d0")),
    Case("the less loaded", [P0, P1, D0, D1], ("p1", "d1"), {"p0": Load(2, 1), "p1": Load(1, 9), "d0": Load(1, 2)}),
    Case("equally loaded: in turn", [P0, P1, D0, D1], ("p1", "d0"), {"p0": Load(1, 5), "p1": Load(1, 4)}),
    Case("avoid the failed", [P0, P1, D0], ("p1", "d0"), {"p1": Load(9, 1)}, frozenset({"p0"})),
    Case("only equal fingerprints", [P0, OTHER_D, D0], ("p0", "d0"), {"d0": Load(9, 1)}),
    Case("a consumer without a partner is passed over", [OTHER_P, D0, OTHER_D], ("p2", "d2"), {"d2": Load(9, 1)}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_choose(case: Case) -> None:
    pair = choose(case.instances, case.loads, MODEL, case.avoid)
    assert (pair.producer.instance_id, pair.consumer.instance_id) == case.pair


@pytest.mark.parametrize(
    ("instances", "model", "missing", "reason"),
    [
        ([], MODEL, ("prefill", "decode"), "No prefill and no decode instance is available."),
        ([P0], MODEL, ("decode",), "No decode instance is available."),
        ([D0], MODEL, ("prefill",), "No prefill instance is available."),
        ([P0, LORA_D], "adapter", ("prefill",), "No prefill instance is available."),
        (
            [P0, OTHER_D],
            MODEL,
            ("prefill", "decode"),
            "No prefill and decode instance fit together: different dtype 'float32' and 'bfloat16' (p0, d2).",
        ),
    ],
)
def test_no_pair(instances: list[Instance], model: str, missing: tuple[str, ...], reason: str) -> None:
    with pytest.raises(NoInstance) as nobody:
        choose(instances, {}, model)
    assert (nobody.value.missing, str(nobody.value)) == (missing, reason)


def test_a_model_that_no_instance_serves() -> None:
    with pytest.raises(ModelNotFound, match="'gpt-5' does not exist"):
        choose([P0, D0], {}, "gpt-5")


def test_a_mismatch_that_no_field_explains() -> None:
    assert mismatch(P0, instance("decode", "d", fingerprint="x")) == "different fingerprints (p0, d)"

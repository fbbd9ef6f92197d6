"""What is to be said of each model's ratio of producers to consumers, as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.console.told import ms
from proxy.ratio.matching import PART_S, PARTS, Part, Side, judge
from proxy.ratio.watch import Pairs

Json = dict[str, Any]


def verdicts(pairs: Pairs, windows: Mapping[str, Sequence[Part]], tpot_s: float) -> list[Json]:
    """Args: windows: of each model, as of `watch.windows`; tpot_s: what is promised between two tokens."""
    return [
        _verdict(model, windows.get(model, ()), (len(producers), len(consumers)), tpot_s)
        for model, (producers, consumers) in pairs.of_model.items()
    ]


def _verdict(model: str, window: Sequence[Part], numbers: tuple[int, int], tpot_s: float) -> Json:
    found = judge(window, *numbers, tpot_s)
    return {
        "model": model,
        "minutes": PARTS * PART_S / 60,
        "says": found.says,
        "producers": _side(found.producers),
        "consumers": _side(found.consumers),
        "tokens_waiting": found.tokens_waiting,
        "wait_ms": ms(found.wait_s),
        "cache_usage": found.cache_usage,
        "itl_ms": ms(found.itl_s),
    }


def _side(side: Side) -> Json:
    """`change`: how many more there should be."""
    return {"number": side.number, "use": round(side.use, 3), "wanted": side.wanted, "change": side.change}

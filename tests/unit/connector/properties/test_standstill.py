"""One process of a pair, or both, is stopped for a while, in simulated time: once both are awake the two soon agree.

Each transfer goes on for both, or is over for both; those that go on arrive, and no byte of the others comes later.
"""

from collections.abc import Iterator
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.connector.fakes import CLOCKS
from tests.unit.connector.properties.simulated_pair import CACHES, TOKENS, Clock, Pair

AGREEMENT_S = 3.0  # the bound in docs/connector.md
TRANSFERS = 4
LENGTHS_S = [0.5, 4.0, 5.0, 6.5, 8.9, 9.1, 11.0, 12.5, 20.0, 29.0, 31.0, 36.0, 44.0, 47.0, 61.0, 130.0]
ANY_WAY = {
    "cache": st.sampled_from(sorted(CACHES)),
    "who": st.sampled_from(["producer", "consumer", "both"]),
    "seconds": st.sampled_from(LENGTHS_S),
    "begun": st.lists(st.sampled_from([0, 4, 8, TOKENS]), min_size=TRANSFERS, max_size=TRANSFERS),
    "writing": st.booleans(),
    "broken_write": st.booleans(),
    "meanwhile": st.booleans(),
    "lossy": st.booleans(),
    "reconnect_s": st.floats(0.0, 1.0),
    "phases": st.tuples(st.floats(9.0, 12.0), st.floats(9.0, 12.0)),
}
PLAIN = {
    "cache": "one group",
    "begun": [TOKENS, 4, 0, 0],
    "writing": False,
    "broken_write": False,
    "meanwhile": False,
    "lossy": False,
    "reconnect_s": 0.1,
    "phases": (9.0, 10.0),
}
# And only the producer's connection breaks, so that the consumer does not know.
ANSWERS_ARE_LOST = {
    "cache": "several groups",
    "who": "consumer",
    "seconds": 11.0,
    "writing": True,
    "broken_write": True,
    "meanwhile": False,
    "lossy": True,
    "reconnect_s": 0.5,
    "phases": (9.0, 12.0),
}


@pytest.fixture(scope="module")
def clock() -> Iterator[Clock]:
    clock = Clock()
    patches = [patch(module, clock) for module in CLOCKS]
    for one in patches:
        one.start()
    yield clock
    for one in patches:
        one.stop()


def agree(
    clock: Clock,
    cache: str,
    who: str,
    seconds: float,
    begun: list[int],
    writing: bool,
    broken_write: bool,
    meanwhile: bool,
    lossy: bool,
    reconnect_s: float,
    phases: tuple[float, float],
) -> Pair:
    """Returns the pair after a standstill and all that follows from it, having judged both.

    Args: begun: tokens that are computed of each transfer's prompt before; writing: the last of these stand still on
        their way, and `broken_write` says whether Mooncake gives them up after it; meanwhile: the producer computes on
        while the consumer is stopped; cache, lossy, reconnect_s, phases: see `Pair`.
    """
    pair = Pair(clock, cache, lossy, reconnect_s, phases)
    try:
        for number in range(TRANSFERS):
            pair.begin(number)
        pair.run(1.0)
        for number, tokens in enumerate(begun):
            if writing and number == TRANSFERS - 1:
                pair.hold_writes()
            pair.compute(number, tokens)
        pair.stop(*{"producer": [pair.p], "consumer": [pair.d], "both": [pair.p, pair.d]}[who])
        pair.run(seconds / 2)
        if meanwhile and who == "consumer":
            for number in range(TRANSFERS):
                pair.compute(number, TOKENS)
        pair.run(seconds / 2)
        pair.wake(broken_write)
        pair.run(AGREEMENT_S)
        for number in range(TRANSFERS):
            pair.assert_agreed(number)
        for number in range(TRANSFERS):
            pair.compute(number, TOKENS)
        pair.run(AGREEMENT_S)
        pair.assert_all_over(TRANSFERS)
    finally:
        pair.close()
    return pair


@settings(max_examples=150)
@given(**ANY_WAY)
@example(**PLAIN, who="producer", seconds=20.0)
@example(**PLAIN, who="consumer", seconds=20.0)
@example(**PLAIN, who="both", seconds=20.0)
@example(**ANSWERS_ARE_LOST, begun=[0, 0, 4, TOKENS])
@example(**ANSWERS_ARE_LOST, begun=[TOKENS, TOKENS, TOKENS, 4])
def test_after_any_standstill_the_two_sides_agree(clock: Clock, **how: object) -> None:
    agree(clock, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [length for length in LENGTHS_S if length < 30])
@pytest.mark.parametrize("who", ["producer", "both"])
def test_what_a_stopped_producer_had_not_done_goes_on_when_it_wakes(clock: Clock, who: str, seconds: float) -> None:
    """Nothing is computed twice: neither side has waited for longer than it would have for a live one."""
    pair = agree(clock, **PLAIN, who=who, seconds=seconds)  # type: ignore[arg-type]
    assert pair.reported == dict.fromkeys(range(TRANSFERS), True)
    assert pair.revocations == 0

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from connector.store.breaker import Breaker

LIMIT, COOLDOWN_S = 3, 5.0


def test_failures_count_in_a_row() -> None:
    breaker = Breaker(LIMIT, COOLDOWN_S, lambda: 0.0)
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()

    assert breaker.allows()


def test_a_trial_without_an_answer_does_not_keep_it_open_for_ever() -> None:
    now = 0.0
    breaker = Breaker(1, COOLDOWN_S, lambda: now)
    breaker.failed()
    now = 5.0
    assert [breaker.allows(), breaker.allows()] == [True, False]
    now = 10.0
    assert breaker.allows()


@given(st.lists(st.floats(0.0, 2.0), max_size=200))
def test_a_dead_store_is_asked_once_a_cooldown(pauses: list[float]) -> None:
    """Whenever requests come: after the first failures no two questions are closer than a cooldown."""
    now = 0.0
    breaker = Breaker(LIMIT, COOLDOWN_S, lambda: now)
    asked = []
    for pause in pauses:
        now += pause
        if breaker.allows():
            asked.append(now)
            breaker.failed()

    assert len(asked) >= min(LIMIT, len(pauses))
    later = asked[LIMIT - 1 :]
    assert all(after - before >= COOLDOWN_S for before, after in pairwise(later))

"""Lookups in a scripted store that is slow, hangs or fails: a request waits for its budget at most."""

import threading
from collections.abc import Iterator, Sequence

import pytest

from connector.store.breaker import Breaker
from connector.store.lookups import Lookups
from connector.store.stats import StoreStats

BUDGET_S = 0.02
MISS = -1
HASHES = [b"1", b"2"]


class Store:
    """Answers with the number of tokens it is asked about; hangs while `answers` is not set."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.answers = threading.Event()
        self.answers.set()
        self.error: Exception | None = None
        self.load_hangs = False
        self.stats = StoreStats()

    def ask(self, num_tokens: int, block_hashes: Sequence[bytes]) -> int:
        assert block_hashes == HASHES
        self.asked.append(num_tokens)
        assert self.answers.wait(10)
        if self.error is not None:
            raise self.error
        return num_tokens


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.answers.set()


def lookups(store: Store, failures: int = 3, cooldown_s: float = 60.0) -> Lookups[int]:
    return patient(store, BUDGET_S, Breaker(failures, cooldown_s), Breaker(failures, cooldown_s))


def patient(store: Store, budget_s: float, of_lookups: Breaker, of_loads: Breaker) -> Lookups[int]:
    return Lookups(store.ask, MISS, budget_s, of_lookups, of_loads, lambda: store.load_hangs, store.stats)


def test_what_the_store_holds_is_the_answer_at_once(store: Store) -> None:
    # A budget that no machine is too busy for: what is asked here is the answer.
    asked = patient(store, 10.0, Breaker(3, 60.0), Breaker(3, 60.0))

    assert [asked.lookup("a", 64, HASHES), asked.lookup("b", 32, HASHES)] == [64, 32]


def test_a_store_that_hangs_is_no_hit_and_after_some_requests_it_is_not_asked_any_more(store: Store) -> None:
    store.answers.clear()
    asked = lookups(store, failures=3)

    assert [asked.lookup(str(number), number, HASHES) for number in range(20)] == [MISS] * 20
    store.answers.set()
    asked._thread.submit(lambda: None).result(10)  # behind everything that was asked
    assert store.asked == [0], "of those behind the question that hung none is asked when it ends"


def test_a_store_that_fails_is_no_hit(store: Store) -> None:
    store.error = ConnectionError("the master is gone")

    assert lookups(store).lookup("a", 64, HASHES) == MISS


def test_a_request_that_the_store_failed_once_does_not_wait_for_it_again(store: Store) -> None:
    asked = lookups(store, failures=100)
    store.error = ConnectionError("the master is gone")
    assert asked.lookup("a", 64, HASHES) == MISS
    store.error = None

    assert asked.lookup("a", 64, HASHES) == MISS
    assert len(store.asked) == 1
    asked.discard("a")
    assert asked._given_up == set(), "nothing is kept of a request that has ended"


def test_a_store_that_answers_again_is_found_by_one_trial(store: Store) -> None:
    store.error = ConnectionError("the master is gone")
    now = 0.0
    asked = patient(store, 10.0, Breaker(2, 5.0, lambda: now), Breaker(2, 5.0, lambda: now))
    for number in range(10):
        assert asked.lookup(f"before-{number}", 64, HASHES) == MISS
    assert len(store.asked) == 2

    store.error = None
    now = 4.9
    assert asked.lookup("too-early", 64, HASHES) == MISS
    now = 5.0
    assert asked.lookup("trial", 64, HASHES) == 64
    assert asked.lookup("next", 64, HASHES) == 64


def test_the_request_of_a_failed_load_asks_no_more(store: Store) -> None:
    asked = lookups(store, failures=2)
    asked.load_failed("a")

    assert [asked.lookup("a", 64, HASHES), asked.lookup("b", 64, HASHES)] == [MISS, 64]
    assert (asked.has_given_up("a"), asked.has_given_up("b"), asked.store_fails) == (True, False, False)


def test_after_failed_loads_one_request_a_while_tries_to_load_though_the_master_answers(store: Store) -> None:
    now = 0.0
    asked = patient(store, 10.0, Breaker(2, 5.0, lambda: now), Breaker(2, 5.0, lambda: now))
    for name in ("a", "b"):
        assert asked.lookup(name, 64, HASHES) == 64
        asked.load_failed(name)
        asked.load_failed(name)  # a failure may be reported twice, and counts once
    assert asked.store_fails
    assert asked.lookup("c", 64, HASHES) == MISS

    now = 5.0
    assert [asked.lookup(name, 64, HASHES) for name in ("trial", "d")] == [64, MISS]
    asked.load_succeeded()
    assert not asked.store_fails
    assert asked.lookup("e", 64, HASHES) == 64


def test_nothing_is_asked_while_a_load_hangs(store: Store) -> None:
    asked = lookups(store)
    store.load_hangs = True
    assert (asked.lookup("a", 64, HASHES), store.asked, asked.store_fails) == (MISS, [], True)

    store.load_hangs = False
    assert (asked.lookup("a", 64, HASHES), asked.store_fails) == (64, False)


def test_each_request_is_counted_once_by_what_it_found(store: Store) -> None:
    asked = patient(store, 10.0, Breaker(2, 60.0), Breaker(2, 60.0))
    for name, tokens in (("a", 64), ("a", 64), ("b", MISS), ("c", 32)):  # "a" waits for room and is asked about again
        asked.lookup(name, tokens, HASHES)
    asked.discard("a")
    asked.lookup("a", 64, HASHES)
    store.error = ConnectionError("the master is gone")
    for name in ("d", "e", "f"):
        asked.lookup(name, 64, HASHES)
    asked.tell_breakers()
    assert store.stats.take() == {
        "counted": [["lookups", "hit", 3], ["lookups", "miss", 1], ["lookups", "late", 2], ["lookups", "left", 1]],
        "observed": [],
        "gauges": [["breaker_open", "lookups", 1], ["breaker_open", "loads", 0]],
    }


def test_nobody_empties_the_store_of_all(store: Store) -> None:
    assert lookups(store).reset() is False


def test_ending_does_not_wait_for_a_store_that_hangs(store: Store) -> None:
    store.answers.clear()
    asked = lookups(store)
    asked.lookup("a", 64, HASHES)

    asked.close()

    assert not store.answers.is_set()

"""From a registration to the first token of the answer, at a consumer's scheduler."""

from types import SimpleNamespace
from typing import Any

import pytest

from connector.control.messages import FirstToken
from connector.first_token import causes
from connector.first_token.expected import Expected, FirstTokens
from connector.telling.stats import TransferStats

ADDRESS = "tcp://d:9"
TRUE = FirstToken("t1", "p", "digest", 65)
REQUEST: Any = SimpleNamespace()


class Consumer:
    """`why_not`: the cause for which no token is wanted."""

    def __init__(self, why_not: str = "", attached: bool = True) -> None:
        self.stats = TransferStats()
        self.told: list[dict[str, Any]] = []
        self.tokens = FirstTokens(ADDRESS, self.stats, self.told.append)
        if attached:
            self.tokens.take_with(lambda _: why_not)

    def expect(self, number: int = 1, request: str = "", left_out: bool = False) -> str:
        one = Expected(request or f"r{number}", f"t{number}", "p", "digest", tokens=10)
        return self.tokens.expect(REQUEST, one, left_out)

    def here(self) -> list[tuple[str, int | None]]:
        return [(one.request_id, one.token) for one in self.tokens.here()]

    def settle(self, cause: str = "") -> None:
        (one,) = self.tokens.here()
        self.tokens.settled(one, cause)

    def counted(self) -> list[list[Any]]:
        taken = self.stats.take()
        return taken["counted"] if taken else []


def test_a_token_is_taken_once() -> None:
    consumer = Consumer()
    assert consumer.expect() == ADDRESS
    assert consumer.here() == []
    consumer.tokens.on_message(TRUE)
    assert consumer.here() == [("r1", 65)]
    assert consumer.here() == [("r1", 65)], "until it is settled"
    consumer.settle()
    consumer.tokens.on_message(TRUE)
    consumer.tokens.load_over("t1", "r1", 65, failed=False)
    assert consumer.here() == []
    assert consumer.counted() == [["first_tokens", "producer", "", 1]]
    producers = {"first_token": "producer", "first_token_way": "message", "expected_tokens": 10}
    assert consumer.told == [{"transfer_id": "t1", **producers}]


@pytest.mark.parametrize(
    "forged",
    [FirstToken("t1", "q", "digest", 66), FirstToken("t1", "p", "other", 66), FirstToken("t2", "p", "digest", 66)],
)
def test_only_the_registered_producers_is_taken(forged: FirstToken) -> None:
    consumer = Consumer()
    consumer.expect()
    consumer.tokens.on_message(forged)
    assert consumer.here() == []
    consumer.tokens.on_message(TRUE)
    consumer.tokens.on_message(FirstToken("t1", "p", "digest", 67))
    assert consumer.here() == [("r1", 65)], "the first counts"


@pytest.mark.parametrize("failed", [True, False])
def test_the_word_on_the_cache_has_it_too(failed: bool) -> None:
    consumer = Consumer()
    consumer.expect()
    consumer.tokens.load_over("t1", "another request", 66, failed)
    assert consumer.here() == []
    consumer.tokens.load_over("t1", "r1", 65, failed)
    assert consumer.here() == [("r1", 65)]
    consumer.settle()
    assert consumer.told[0]["first_token_way"] == "with the cache"


def test_a_load_without_one() -> None:
    consumer = Consumer()
    consumer.expect()
    consumer.tokens.load_over("t1", "r1", None, failed=True)
    (one,) = consumer.tokens.here()
    assert (one.token, one.load_over, one.load_failed) == (None, True, True)
    consumer.settle(causes.LOAD_FAILED)
    assert consumer.counted() == [["first_tokens", "consumer", causes.LOAD_FAILED, 1]]
    consumers = {"first_token": "consumer", "first_token_cause": causes.LOAD_FAILED}
    assert consumer.told == [{"transfer_id": "t1", **consumers}]


@pytest.mark.parametrize(
    ("why_not", "left_out", "cause"),
    [
        (causes.SEED, False, causes.SEED),
        (causes.SEED, True, causes.SEED),
        ("", True, causes.WINDOWS_OR_STATE),
    ],
)
def test_none_is_asked_for_that_cannot_be_taken(why_not: str, left_out: bool, cause: str) -> None:
    consumer = Consumer(why_not)
    assert consumer.expect(left_out=left_out) == ""
    consumer.tokens.on_message(TRUE)
    assert consumer.here() == []
    assert consumer.counted() == [["first_tokens", "consumer", cause, 1]]


def test_without_a_scheduler_that_takes_them_nothing_is_asked_or_counted() -> None:
    consumer = Consumer(attached=False)
    assert consumer.expect() == ""
    assert consumer.counted() == []
    assert consumer.told == []


def test_of_a_request_that_has_ended_nothing_is_kept() -> None:
    consumer = Consumer()
    consumer.expect()
    consumer.expect(request="another with its id")
    consumer.tokens.forget("t1", "another with its id")
    consumer.tokens.on_message(TRUE)
    assert consumer.here() == [("r1", 65)]
    consumer.tokens.forget("t1", "r1")
    assert consumer.here() == []
    assert consumer.counted() == []

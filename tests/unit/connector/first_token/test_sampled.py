"""From a producer's scheduler to its ranks."""

from types import SimpleNamespace
from typing import Any

from connector.control.messages import Message, Sampled
from connector.first_token.sampled import FirstSampled, SampledTokens

RANKS = ["tcp://p:1", "tcp://p:2"]


class Scheduler:
    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.tokens = SampledTokens("p", lambda address, message: self.sent.append((address, message)))
        self.tokens.set_ranks(RANKS)

    def request(self, *output: int) -> Any:
        one = SimpleNamespace(request_id="r1", output_token_ids=list(output), num_output_tokens=len(output))
        self.tokens.await_of(one, "t1")
        return one


TOLD = [(rank, Sampled("t1", "p", 65)) for rank in RANKS]


def test_at_the_end_of_its_request() -> None:
    scheduler = Scheduler()
    scheduler.request(65)
    scheduler.tokens.ended("r1")
    assert scheduler.sent == TOLD
    assert scheduler.tokens.take() == [FirstSampled("t1", 65)]
    assert scheduler.tokens.take() == []
    assert scheduler.sent == TOLD


def test_of_a_request_that_goes_on() -> None:
    scheduler = Scheduler()
    one = scheduler.request()
    assert scheduler.tokens.take() == []
    one.output_token_ids, one.num_output_tokens = [65, 66], 2
    assert scheduler.tokens.take() == [FirstSampled("t1", 65)]
    scheduler.tokens.ended("r1")
    assert scheduler.tokens.take() == []
    assert scheduler.sent == TOLD


def test_of_one_that_was_aborted_there_is_none() -> None:
    scheduler = Scheduler()
    one = scheduler.request()
    scheduler.tokens.ended("r1")
    one.output_token_ids, one.num_output_tokens = [65], 1
    assert scheduler.tokens.take() == []
    scheduler.tokens.ended("a request without a transfer")
    assert scheduler.sent == []

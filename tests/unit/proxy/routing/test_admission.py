"""Bounds on what runs and what waits: first come first served, no place lost, an honest Retry-After."""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import RETRY_AFTER_S, SloUnreachable, TooBusy
from proxy.routing.admission import (
    MAX_RETRY_AFTER_S,
    Admission,
    AdmissionLimits,
    Prefills,
    Throughput,
    Ticket,
    retry_after,
)


async def settled() -> None:
    """Every task has run as far as it can: a wake-up takes one turn of the loop, a cancellation two."""
    for _ in range(4):
        await asyncio.sleep(0)


async def test_there_is_room_until_a_bound_is_reached_and_again_after_a_leave() -> None:
    admission = Admission(AdmissionLimits(running_requests=2, queued_requests=2))
    first, second = await admission.enter(5), await admission.enter(5)
    third = asyncio.create_task(admission.enter(5))
    await settled()
    assert (admission.running_requests, admission.queued_requests, third.done()) == (2, 1, False)
    first.leave()
    first.leave()
    (await third).leave()
    second.leave()
    assert (admission.running_requests, admission.running_tokens, admission.queued_tokens) == (0, 0, 0)


async def test_with_room_no_other_task_runs_in_between() -> None:
    admission = Admission(AdmissionLimits(1, 0))
    entering = admission.enter(1)
    with pytest.raises(StopIteration) as returned:
        entering.send(None)
    assert isinstance(returned.value.value, Ticket)


async def test_tokens_bound_what_runs() -> None:
    admission = Admission(AdmissionLimits(10, 10, running_tokens=100))
    ticket = await admission.enter(60)
    waiting = asyncio.create_task(admission.enter(41))
    await settled()
    assert not waiting.done()
    ticket.leave()
    (await waiting).leave()


@pytest.mark.parametrize(
    ("limits", "entered"),
    [
        (AdmissionLimits(1, 0), []),
        (AdmissionLimits(1, 2), [1, 1]),
        (AdmissionLimits(1, 9, queued_tokens=100), [60]),
        (AdmissionLimits(1, 9, queued_tokens=100), [1000]),
    ],
)
async def test_a_full_queue_refuses(limits: AdmissionLimits, entered: list[int]) -> None:
    admission = Admission(limits)
    ticket = await admission.enter(1)
    waiting = [asyncio.create_task(admission.enter(tokens)) for tokens in entered]
    await settled()
    with pytest.raises(TooBusy):
        await admission.enter(50)
    ticket.leave()
    for task in waiting:
        (await task).leave()
    (await admission.enter(50)).leave()


async def test_a_request_above_the_bound_runs_alone_and_nobody_overtakes_it() -> None:
    admission = Admission(AdmissionLimits(10, 10, running_tokens=100, queued_tokens=200))
    small = await admission.enter(1)
    large = asyncio.create_task(admission.enter(1_000_000))
    behind = asyncio.create_task(admission.enter(1))
    await settled()
    assert (large.done(), behind.done()) == (False, False)
    small.leave()
    ticket = await large
    await settled()
    assert (admission.running_tokens, behind.done()) == (100, False)
    ticket.leave()
    (await behind).leave()


async def test_whoever_waited_behind_a_client_that_left_moves_up_at_once() -> None:
    admission = Admission(AdmissionLimits(10, 10, running_tokens=100))
    ticket = await admission.enter(60)
    large, small = asyncio.create_task(admission.enter(100)), asyncio.create_task(admission.enter(40))
    await settled()
    large.cancel()
    (await small).leave()
    ticket.leave()
    assert (admission.running_requests, admission.queued_requests, admission.queued_tokens) == (0, 0, 0)


async def test_a_client_that_leaves_just_when_it_is_admitted_gives_its_place_back() -> None:
    admission = Admission(AdmissionLimits(1, 10))
    ticket = await admission.enter(1)
    waiting, behind = asyncio.create_task(admission.enter(1)), asyncio.create_task(admission.enter(1))
    await settled()
    ticket.leave()
    waiting.cancel()
    (await behind).leave()
    assert waiting.cancelled()
    assert admission.running_requests == 0


async def test_a_waiter_cancelled_in_the_same_turn_as_a_place_is_free_is_passed_over() -> None:
    admission = Admission(AdmissionLimits(1, 10))
    ticket = await admission.enter(1)
    waiting, behind = asyncio.create_task(admission.enter(1)), asyncio.create_task(admission.enter(1))
    await settled()
    waiting.cancel()
    ticket.leave()
    (await behind).leave()
    assert (admission.running_requests, admission.queued_requests) == (0, 0)


async def test_retry_after_is_what_waits_over_the_rate_of_late() -> None:
    now = 0.0
    admission = Admission(AdmissionLimits(1, 2), lambda: now)
    ticket = await admission.enter(100)
    now = 10.0
    ticket.leave()
    ticket = await admission.enter(100)
    waiting = [asyncio.create_task(admission.enter(tokens)) for tokens in (30, 40)]
    await settled()
    with pytest.raises(TooBusy) as refusal:
        await admission.enter(1)
    assert refusal.value.retry_after_s == pytest.approx(70 / (100 / 10), rel=0.2)
    ticket.leave()
    for task in waiting:
        (await task).leave()


@pytest.mark.parametrize(
    ("tokens_ahead", "tokens_per_s", "seconds"),
    [(100, None, RETRY_AFTER_S), (100, 10.0, 10), (1, 10.0, 1), (0, 10.0, 1), (10**9, 0.001, MAX_RETRY_AFTER_S)],
)
def test_the_bounds_of_retry_after(tokens_ahead: int, tokens_per_s: float | None, seconds: float) -> None:
    assert retry_after(tokens_ahead, tokens_per_s) == seconds


def test_throughput_is_that_of_the_busy_time_of_late() -> None:
    measured = Throughput()
    assert measured.tokens_per_s() is None
    for second in range(0, 600, 2):  # busy for every other second
        measured.begin(second)
        measured.end(100, second + 1)
    assert measured.tokens_per_s() == pytest.approx(100, rel=0.05)
    for second in range(10_000, 10_300):
        measured.begin(second)
        measured.end(10, second + 1)
    assert measured.tokens_per_s() == pytest.approx(10, rel=0.05)


def test_throughput_of_many_at_once_is_their_sum() -> None:
    measured = Throughput()
    for _ in range(8):
        measured.begin(0)
    for _ in range(8):
        measured.end(25, 2)
    assert measured.tokens_per_s() == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize(
    ("outstanding", "prompt", "tokens_per_s", "retry_after_s"),
    [
        (0, 10**9, None, None),
        (900, 1000, 1000, None),
        (1100, 1000, 1000, 1),
        (9000, 1000, 1000, 8),
        (10**9, 1000, 1000, MAX_RETRY_AFTER_S),
    ],
)
def test_a_first_token_that_would_come_too_late(
    outstanding: int, prompt: int, tokens_per_s: int | None, retry_after_s: float | None
) -> None:
    prefills = Prefills()
    if tokens_per_s is not None:
        prefills.begin(tokens_per_s, 0)
        prefills.end(tokens_per_s, tokens_per_s, 1)
    prefills.begin(outstanding, 1)
    with nullcontext() if retry_after_s is None else pytest.raises(SloUnreachable) as refusal:
        prefills.refuse_late_first_token(2.0, prompt)
    if refusal is not None:
        assert refusal.value.retry_after_s == pytest.approx(retry_after_s, rel=0.05)


@pytest.mark.parametrize("at_once", [1, 10])
def test_what_nothing_comes_of_does_not_make_an_instance_look_slow(at_once: int) -> None:
    """A thousand refused requests of 5 ms, then one whose first token is in time as ever."""
    prefills = Prefills()
    prefills.begin(1000, 0)
    prefills.end(1000, 1000, 1)
    now = 1.0
    for _ in range(1000 // at_once):
        for _ in range(at_once):
            prefills.begin(10, now)
        now += 0.005
        for _ in range(at_once):
            prefills.end(10, 0, now)
    prefills.refuse_late_first_token(1.1, 1000)


@dataclass
class Client:
    tokens: int
    entering: "asyncio.Task[Ticket]"

    @property
    def ticket(self) -> Ticket | None:
        admitted = self.entering.done() and not self.entering.cancelled() and self.entering.exception() is None
        return self.entering.result() if admitted else None


LIMITS = AdmissionLimits(running_requests=3, queued_requests=4, running_tokens=10, queued_tokens=15)
STEPS = st.one_of(
    st.tuples(st.just("enter"), st.integers(1, 14)),
    st.tuples(st.sampled_from(["leave", "cancel", "cancel"]), st.integers(0, 9)),
    st.tuples(st.just("run"), st.just(0)),
)


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=60))
def test_any_order_keeps_the_bounds_the_order_and_every_place(steps: list[tuple[str, int]]) -> None:
    asyncio.run(_any_order(steps))


async def _any_order(steps: list[tuple[str, int]]) -> None:
    admission = Admission(LIMITS)
    clients: list[Client] = []

    def check() -> None:
        assert 0 <= admission.running_requests <= LIMITS.running_requests
        assert 0 <= admission.queued_requests <= LIMITS.queued_requests
        assert 0 <= admission.running_tokens <= 10
        assert 0 <= admission.queued_tokens <= 15

    async def run() -> None:
        await settled()
        check()
        admitted = [client for client in clients if client.ticket is not None]
        assert admission.running_requests == len(admitted)
        assert admission.running_tokens == sum(min(client.tokens, 10) for client in admitted)
        waiting = [client for client in clients if not client.entering.done()]
        assert admission.queued_requests == len(waiting)
        if waiting:  # the head of the queue waits for want of room only, and nobody behind it has overtaken it
            full = len(admitted) == LIMITS.running_requests
            assert full or admission.running_tokens + min(waiting[0].tokens, 10) > 10
            assert all(clients.index(client) < clients.index(waiting[0]) for client in admitted)

    for kind, value in steps:
        if kind == "enter":
            clients.append(Client(value, asyncio.create_task(admission.enter(value))))
        elif kind == "run":
            await run()
        elif clients:
            client = clients[value % len(clients)]
            if kind == "cancel":
                client.entering.cancel()
            elif client.ticket is not None:
                client.ticket.leave()
                clients.remove(client)
        check()
    while clients:
        await run()
        for client in [client for client in clients if client.entering.done()]:
            if client.ticket is not None:
                client.ticket.leave()
            clients.remove(client)
    assert (admission.running_requests, admission.running_tokens) == (0, 0)
    assert (admission.queued_requests, admission.queued_tokens) == (0, 0)


def test_only_what_comes_before_a_prompt_delays_its_first_token() -> None:
    prefills = Prefills()
    prefills.begin(1000, 0.0)
    prefills.end(1000, 1000, 1.0)
    prefills.begin(8000, 2.0)
    prefills.refuse_late_first_token(2.0, 100, ahead=1000)
    with pytest.raises(SloUnreachable):
        prefills.refuse_late_first_token(2.0, 100)

"""A failing instance is left alone; what a request's sender can bring about never makes an instance one."""

import pytest

from proxy.errors import TooManyConnections
from proxy.verdict.breakers import Leg
from proxy.verdict.circuit import AGAIN_S, MAX_COOLDOWN_S, PAUSE_S, Finding
from tests.unit.proxy.verdict.watched import (
    BROKEN,
    BUSY,
    ERROR,
    LATE,
    LIMITS,
    REFUSED,
    STALLED,
    UNFINISHED,
    UNREACHABLE,
    Watched,
)


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def opened(watched: Watched) -> Watched:
    watched.fails(UNREACHABLE, times=LIMITS.failures)
    return watched


def test_an_instance_that_cannot_be_reached_is_left_alone_after_three_failures(watched: Watched) -> None:
    watched.fails(UNREACHABLE, times=LIMITS.failures - 1)
    assert watched.state() == "closed"
    watched.fails(UNREACHABLE)
    assert watched.state() == "open"
    assert watched.state("d1") == "closed"


def test_a_success_between_starts_the_count_anew(watched: Watched) -> None:
    watched.fails(UNREACHABLE, times=2)
    watched.works()
    watched.fails(UNREACHABLE, times=2)
    assert watched.state() == "closed"


@pytest.mark.parametrize("between", [ERROR, BUSY, REFUSED, LATE, UNFINISHED, None], ids=lambda e: type(e).__name__)
def test_what_is_no_success_does_not_start_the_count_anew(watched: Watched, between: BaseException | None) -> None:
    for _ in range(LIMITS.failures):
        assert watched.state() == "closed"
        if between is None:
            watched.breakers.begin("d0", 0).neutral()
        else:
            leg = watched.breakers.begin("d0", 0)
            leg.signs.at = 9  # others get their tokens
            leg.failed(between, 10)
        watched.fails(UNREACHABLE)
    assert watched.state() == "open"


@pytest.mark.parametrize(
    "error", [ERROR, BUSY, REFUSED, UNFINISHED, TooManyConnections()], ids=lambda e: type(e).__name__
)
def test_an_answer_or_a_shortage_of_the_proxys_own_never_opens_it(watched: Watched, error: BaseException) -> None:
    watched.fails(error, times=1000)
    assert (watched.state(), watched.breakers.described("d0", 0)["failures"]) == ("closed", 0)


@pytest.mark.parametrize(
    ("error", "question"),
    [
        *((error, "token") for error in (UNREACHABLE, BROKEN, ERROR, UNFINISHED)),
        (BUSY, "health"),
        *((error, None) for error in (REFUSED, TooManyConnections())),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_the_instance_is_asked_after(watched: Watched, error: BaseException, question: str | None) -> None:
    watched.fails(error)
    assert watched.breakers.in_doubt("d0") == (question is not None)
    if question is None:
        assert watched.due() is None
    else:
        assert watched.asks("well") == question
        assert watched.due() is None
        assert not watched.breakers.in_doubt("d0")


def test_somebody_elses_good_answer_settles_a_doubt(watched: Watched) -> None:
    watched.fails(ERROR)
    watched.works()
    assert watched.due() is None
    assert not watched.breakers.in_doubt("d0")


def test_a_good_answer_about_its_health_does_not_settle_the_doubt_whether_it_gives_tokens(watched: Watched) -> None:
    watched.fails(BUSY)
    circuit = watched.doubted["d0"]
    assert circuit.ask(0) == "health"
    watched.fails(ERROR)
    assert circuit.due() is None, "one question at a time"
    circuit.found("well", 0)
    assert watched.asks("well", PAUSE_S) == "token"


def test_whoever_raises_doubts_gets_no_more_than_a_question_a_second(watched: Watched) -> None:
    watched.fails(ERROR)
    watched.asks("well", 10)
    watched.fails(ERROR, now=10, times=1000)
    assert watched.due() == 10 + PAUSE_S


def test_three_bad_answers_to_the_question_open_it(watched: Watched) -> None:
    watched.fails(ERROR)
    for number in range(LIMITS.failures):
        assert watched.state() == "closed"
        watched.asks("ill", number * AGAIN_S)
    assert watched.state() == "open"


def test_a_good_answer_to_the_question_takes_the_failures_back(watched: Watched) -> None:
    for now in range(100):
        watched.fails(BROKEN, now, times=2)
        watched.asks("well", now)
        assert watched.state() == "closed"


@pytest.mark.parametrize("finding", ["ill", "silent", "alive"])
def test_broken_connections_open_it_when_the_question_has_no_good_answer(watched: Watched, finding: Finding) -> None:
    watched.fails(BROKEN, times=LIMITS.failures)
    assert watched.state() == "closed"
    watched.asks(finding, 1)
    assert watched.state() == "open"


def test_the_third_broken_connection_is_asked_after_at_once(watched: Watched) -> None:
    watched.fails(ERROR)
    watched.asks("well", 1)
    watched.fails(BROKEN, 1, times=LIMITS.failures)
    assert watched.asks("ill", 1) == "token"
    assert watched.state() == "open"


def test_no_answer_to_the_question_says_nothing_while_others_get_their_tokens(watched: Watched) -> None:
    leg = watched.breakers.begin("d0", 0)
    watched.fails(BROKEN, times=LIMITS.failures)
    circuit = watched.doubted["d0"]
    circuit.ask(1)
    leg.answered(2)
    circuit.found("silent", 6)
    assert watched.state() == "closed"
    watched.fails(BROKEN, 6)
    watched.asks("silent", 11)
    assert watched.state() == "open"


def test_no_answer_to_the_question_alone_does_not_open_it(watched: Watched) -> None:
    watched.fails(ERROR)
    for number in range(10):
        watched.asks("silent" if number % 2 else "alive", number * PAUSE_S)
    assert watched.state() == "closed"
    assert watched.breakers.in_doubt("d0")


@pytest.mark.parametrize(("last_token", "is_failure"), [(None, True), (140.0, True), (160.0, False), (299.0, False)])
def test_a_deadline_is_a_failure_when_the_whole_instance_was_silent(
    watched: Watched, last_token: float | None, is_failure: bool
) -> None:
    late, other = watched.breakers.begin("d0", 0), watched.breakers.begin("d0", 0)
    if last_token is not None:
        other.answered(last_token)
    late.failed(LATE, 300)
    assert watched.breakers.described("d0", 300)["failures"] == is_failure
    assert watched.due() is not None, "in any case it is asked"


def test_streams_that_fall_silent_together_are_failures_all(watched: Watched) -> None:
    legs = [watched.breakers.begin("d0", 0) for _ in range(3)]
    for number, leg in enumerate(legs):
        leg.answered(100 + number / 100)
    for number, leg in enumerate(legs):
        leg.failed(STALLED, 160 + number / 100, silent_s=60)
    assert watched.breakers.described("d0", 161)["failures"] == 3


def test_an_open_circuit_is_closed_by_the_answer_to_the_proxys_question_alone(opened: Watched) -> None:
    assert opened.due() == LIMITS.cooldown_s
    circuit = opened.doubted["d0"]
    circuit.ask(LIMITS.cooldown_s)
    assert opened.state() == "half_open"
    assert opened.breakers.blocked() == {"d0"}
    circuit.found("well", LIMITS.cooldown_s)
    assert opened.state() == "closed"


def test_after_it_has_closed_one_failure_is_enough_until_something_works(opened: Watched) -> None:
    opened.asks("well", 5)
    opened.fails(UNREACHABLE, 5)
    assert opened.breakers.retry_after(["d0"], 5) == 2 * LIMITS.cooldown_s
    opened.asks("well", 15)
    opened.works(15)
    opened.fails(UNREACHABLE, 15, times=LIMITS.failures - 1)
    assert opened.state() == "closed"
    opened.fails(UNREACHABLE, 15)
    assert opened.breakers.retry_after(["d0"], 15) == LIMITS.cooldown_s


@pytest.mark.parametrize("finding", ["ill", "silent"])
def test_the_cool_down_doubles_up_to_its_bound(opened: Watched, finding: Finding) -> None:
    now, seen = 0.0, []
    for _ in range(6):
        wait = opened.breakers.retry_after(["d0"], now)
        seen.append(wait)
        now += wait
        opened.asks(finding, now)
    assert seen == [5, 10, 20, 40, MAX_COOLDOWN_S, MAX_COOLDOWN_S]


def test_a_busy_instance_is_back(opened: Watched) -> None:
    opened.asks("alive", 5)
    assert opened.state() == "closed"


def test_a_question_of_before_it_opened_does_not_double_the_cool_down(watched: Watched) -> None:
    watched.fails(UNREACHABLE)
    circuit = watched.doubted["d0"]
    circuit.ask(0)
    watched.fails(UNREACHABLE, 1, times=2)
    circuit.found("ill", 2)
    assert circuit.due() == 1 + LIMITS.cooldown_s


@pytest.mark.parametrize("end", ["succeeded", "failed"])
def test_a_leg_of_before_neither_closes_nor_opens(watched: Watched, end: str) -> None:
    late = [watched.breakers.begin("d0", 0) for _ in range(4)]
    watched.fails(UNREACHABLE, times=LIMITS.failures)

    def ends(leg: Leg, now: float) -> None:
        leg.failed(UNREACHABLE, now) if end == "failed" else leg.succeeded(now)

    ends(late[0], 1)
    assert (watched.state(), watched.due()) == ("open", LIMITS.cooldown_s)
    watched.asks("well", 5)
    ends(late[1], 6)
    watched.works(6)
    for leg in late[2:]:
        ends(leg, 7)
    watched.fails(UNREACHABLE, 8, times=2)
    assert watched.state() == "closed"
    watched.fails(UNREACHABLE, 8)
    assert watched.state() == "open"


def test_only_a_legs_first_end_counts(watched: Watched) -> None:
    leg = watched.breakers.begin("d0", 0)
    for _ in range(LIMITS.failures):
        leg.failed(UNREACHABLE, 0)
    assert watched.state() == "closed"


def test_a_forgotten_instance_starts_anew_and_is_not_asked(opened: Watched) -> None:
    opened.breakers.forget(["d0", "never seen"])
    assert opened.state() == "closed"
    assert opened.due() is None


def test_when_the_first_of_several_is_asked_again(watched: Watched) -> None:
    watched.fails(UNREACHABLE, times=LIMITS.failures)
    watched.fails(UNREACHABLE, 2, times=LIMITS.failures, name="d1")
    assert watched.breakers.retry_after(["d0", "d1"], 3) == 2
    assert watched.breakers.retry_after(["d1"], 3) == 4
    assert watched.breakers.retry_after(["d1", "d2"], 3) == 0

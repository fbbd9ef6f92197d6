"""Every failure has a status and OpenAI's error form."""

import json
from collections.abc import Iterator

import pytest

from proxy import errors
from proxy.errors import InstanceBusy, InstanceError, ProxyError, RejectedByInstance, code, http_error


def leaves(base: type[ProxyError]) -> Iterator[type[ProxyError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from leaves(kind)


EXAMPLES: list[tuple[ProxyError, int, str | None]] = [
    (errors.BadRequest("no", "prompt"), 400, None),
    (errors.Unauthorized("no"), 401, None),
    (errors.ModelNotFound("x"), 404, None),
    (errors.HeadTooLarge(9), 431, None),
    (errors.HeadTooSlow(9), 408, None),
    (errors.BodyTooLarge(9), 413, None),
    (errors.UnsupportedCoding("br", ("gzip",)), 415, None),
    (errors.BodyTooSlow("no"), 408, None),
    (errors.TooBusy("no", 2.1), 429, "3"),
    (errors.SloUnreachable(4.0, 3.5, 0.5), 429, "1"),
    (errors.TooManyConnections(), 503, "5"),
    (errors.NoInstance(("decode",), "no"), 503, "5"),
    (errors.ShuttingDown(), 503, "5"),
    (errors.InstanceUnreachable("decode", "d0", "is away"), 502, None),
    (errors.InstanceError("decode", "d0", "answered 500"), 502, None),
    (errors.AnswerBroken("decode", "d0", "stopped"), 502, None),
    (errors.AnswerUnfinished("decode", "d0", "ended early"), 502, None),
    (errors.AnswerStalled("decode", "d0", "is silent"), 504, None),
    (errors.DeadlinePassed("The first token", 3), 504, None),
]


@pytest.mark.parametrize(("error", "status", "retry_after"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_status_and_form(error: ProxyError, status: int, retry_after: str | None) -> None:
    answer = http_error(error)
    assert (answer.status, answer.headers.get("Retry-After")) == (status, retry_after)
    shown = json.loads(answer.body)["error"]
    assert shown == {
        "message": str(error),
        "type": "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error",
        "param": getattr(error, "param", None),
        "code": code(error),
    }


def test_no_failure_is_without_an_example() -> None:
    families = {errors.RequestRefused, errors.Wait, errors.LegFailed}
    assert set(leaves(ProxyError)) - families == {type(error) for error, _, _ in EXAMPLES} | {
        RejectedByInstance,
        InstanceBusy,
    }


def test_an_instances_own_rejection_is_passed_on_as_it_is() -> None:
    answer = http_error(RejectedByInstance(422, b"{}", "9"))
    assert (answer.status, answer.body, answer.headers) == (422, b"{}", {"Retry-After": "9"})


@pytest.mark.parametrize(("given", "shown"), [("9", "9"), (None, "1")])
def test_a_busy_instances_words_are_passed_on_with_a_time_to_wait(given: str | None, shown: str) -> None:
    answer = http_error(InstanceBusy("decode", "d0", "answered 503: busy", 503, b"{}", given))
    assert (answer.status, answer.body, answer.headers) == (503, b"{}", {"Retry-After": shown})


def test_an_instances_own_error_is_passed_on_and_one_of_two_instances_is_not_worth_repeating() -> None:
    first, second = (InstanceError("decode", name, "answered 500: x", 500, b"{}") for name in ("d0", "d1"))
    second.after(first)
    answers = [http_error(error) for error in (first, second)]
    assert [(each.status, each.body) for each in answers] == [(500, b"{}")] * 2
    assert [each.headers for each in answers] == [{}, {"X-Should-Retry": "false"}]


def test_a_refused_key_says_how_to_send_one() -> None:
    assert http_error(errors.Unauthorized("no")).headers == {"WWW-Authenticate": "Bearer"}

import json
from typing import Any

import pytest

from loadtest.completion.measurement import StreamObserver
from loadtest.completion.sse import Event
from loadtest.errors import ErrorInStream, RequestFailed, StreamCutOff, UnexpectedAnswer
from loadtest.figures.record import RequestRecord


def event(payload: Any) -> Event:
    return Event("message", payload if isinstance(payload, str) else json.dumps(payload))


def text(content: str, finish_reason: str | None = None) -> Event:
    return event({"choices": [{"index": 0, "text": content, "finish_reason": finish_reason}], "usage": None})


def delta(finish_reason: str | None = None, **fields: Any) -> Event:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]})


def usage(completion_tokens: int) -> Event:
    counts = {"prompt_tokens": 4, "completion_tokens": completion_tokens, "prompt_tokens_details": {"cached_tokens": 2}}
    return event({"choices": [], "usage": counts})


DONE = event("[DONE]")


def measure(*arrivals: tuple[float, Event]) -> StreamObserver:
    observer = StreamObserver()
    for at, arrived in arrivals:
        observer.receive(at, arrived)
    observer.check_whole()
    return observer


COMPLETION = ((1, text("a")), (2, text("b")), (4, text("c", "length")), (4.5, usage(3)), (5, DONE))


@pytest.mark.parametrize(
    ("arrivals", "ttft", "itl", "tpot", "end_to_end"),
    [
        pytest.param(COMPLETION, 1, [1, 2], 1.5, 5, id="one token a chunk"),
        pytest.param(
            ((1, text("a b")), (3, text("c d", "length")), (3, usage(4)), (3, DONE)), 1, [2], 2 / 3, 3, id="two a chunk"
        ),
        pytest.param(
            ((1, text("a")), (2, text("b")), (3, text("", "stop")), (3, usage(3)), (3, DONE)),
            1,
            [1],
            1,
            3,
            id="an EOS token has no content but took a step",
        ),
        pytest.param(
            ((1, text("a", "length")), (2, usage(1)), (2, DONE)), 1, [], None, 2, id="one token has no time per token"
        ),
        pytest.param(((1, text("", "stop")), (2, usage(1)), (2, DONE)), None, [], None, 2, id="the first token is EOS"),
        pytest.param(((1, text("a")), (2, text("b", "length")), (3, DONE)), 1, [1], None, 3, id="no usage"),
        pytest.param(
            (
                (1, delta(role="assistant", content="")),
                (3, delta(content="a")),
                (4, delta(content="b", finish_reason="length")),
                (4, usage(2)),
                (4, DONE),
            ),
            3,
            [1],
            1,
            4,
            id="chat: the chunk with the role is no token",
        ),
        pytest.param(
            ((1, delta(reasoning_content="a")), (2, delta(content="b")), (3, delta("stop")), (3, usage(3)), (3, DONE)),
            1,
            [1],
            1,
            3,
            id="chat: reasoning is content",
        ),
        pytest.param(
            ((2, delta(tool_calls=[{"index": 0}])), (3, delta("tool_calls")), (3, DONE)),
            2,
            [],
            None,
            3,
            id="chat: a tool call is content",
        ),
    ],
)
def test_times(
    arrivals: tuple[tuple[float, Event], ...],
    ttft: float | None,
    itl: list[float],
    tpot: float | None,
    end_to_end: float,
) -> None:
    measured = measure(*arrivals)
    assert measured.done_at is not None
    record = RequestRecord(
        index=0, outcome="completed", scheduled=0, started=0.5, ended=measured.done_at, **measured.fields
    )
    assert record.ttft == ttft
    assert list(record.itl) == itl
    assert record.tpot == (None if tpot is None else pytest.approx(tpot))
    assert record.end_to_end == end_to_end


def test_what_else_is_kept() -> None:
    measured = measure(*COMPLETION)
    fields = measured.fields
    assert (fields["prompt_tokens"], fields["cached_tokens"], fields["output_tokens"]) == (4, 2, 3)
    assert fields["finish_reason"] == "length"
    assert measured.received_bytes == sum(len(event.data) for _, event in COMPLETION)


@pytest.mark.parametrize(
    "last",
    [
        pytest.param({"usage": {"completion_tokens": 2}}, id="no choices"),
        pytest.param({"choices": None, "usage": {"completion_tokens": 2}}, id="null"),
        pytest.param({"choices": [], "usage": {"completion_tokens": 2}, "error": None}, id="OpenAI's, and no error"),
    ],
)
def test_usage_comes_in_the_forms_of_other_servers(last: dict[str, Any]) -> None:
    no_error = {"choices": [{"text": "b", "finish_reason": "stop"}], "error": None}
    measured = measure((1, text("a")), (2, event(no_error)), (3, event(last)), (4, DONE))
    assert measured.content_at == [1, 2]
    assert measured.fields["output_tokens"] == 2


def test_other_servers_pad_their_events() -> None:
    padded = [Event("message", f"  {one.data}\t ") for one in (text("a"), text("b", "stop"), usage(2), DONE)]
    measured = measure(*enumerate(padded))
    assert measured.content_at == [0, 1]
    assert measured.fields["output_tokens"] == 2


@pytest.mark.parametrize(
    ("arrived", "failure", "message"),
    [
        pytest.param((), StreamCutOff, "ended before a finish_reason", id="nothing"),
        pytest.param((text("a"),), StreamCutOff, "ended before a finish_reason", id="cut off"),
        pytest.param((text("a"), DONE), StreamCutOff, "ended before a finish_reason", id="[DONE] alone"),
        pytest.param(
            (text("a", "stop"),), StreamCutOff, "ended between finish_reason and [DONE]", id="finish_reason alone"
        ),
        pytest.param(
            (text("a"), event({"error": {"message": "decode is gone", "code": 502}}), DONE),
            ErrorInStream,
            "decode is gone",
            id="error object",
        ),
        pytest.param(
            (text("a"), Event("error", '{"error": {"message": "decode is gone"}}')),
            ErrorInStream,
            "decode is gone",
            id="error event",
        ),
        pytest.param((Event("error", "[1]"),), ErrorInStream, "[1]", id="error event of another form"),
        pytest.param((text("a"), text("", "abort")), ErrorInStream, "finish_reason abort", id="vLLM gave up"),
        pytest.param((event("nonsense"),), UnexpectedAnswer, "no completion chunk: nonsense", id="not JSON"),
        pytest.param((event("[]"),), UnexpectedAnswer, "no completion chunk: []", id="not an object"),
        pytest.param((event("{}"),), UnexpectedAnswer, "no completion chunk: {}", id="no choices"),
    ],
)
def test_failures(arrived: tuple[Event, ...], failure: type[RequestFailed], message: str) -> None:
    with pytest.raises(failure) as raised:
        measure(*((1, one) for one in arrived))
    assert str(raised.value) == message

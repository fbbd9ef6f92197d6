import pytest

from loadtest.completion import proxy_facts
from loadtest.errors import UnexpectedAnswer


def test_other_servers_say_nothing() -> None:
    assert proxy_facts.of_answer({"content-type": "text/event-stream"}, None) == {}
    assert proxy_facts.of_answer({}, "keep-alive") == {}


def test_headers() -> None:
    headers = {
        "x-request-id": "abc",
        "x-pd-path": "disaggregated",
        "x-pd-transport": "tcp",
        "x-pd-kv-bytes": "4096",
        "x-pd-transfer-id": "t-1",
        "x-pd-first-token": "producer",
        "server-timing": "queue;dur=0.41, prefill;dur=35.20, transfer;dur=0.70, first_step;dur=31.02",
    }
    facts = proxy_facts.of_answer(headers, None)
    phases = facts.pop("phases")
    assert facts == {
        "request_id": "abc",
        "path": "disaggregated",
        "transport": "tcp",
        "kv_bytes": 4096,
        "first_token": "producer",
    }
    assert phases == pytest.approx({"queue": 0.00041, "prefill": 0.0352, "transfer": 0.0007, "first_step": 0.03102})


def test_a_whole_answer_has_no_first_step() -> None:
    """What a proxy in front of ours adds is no phase either."""
    facts = proxy_facts.of_answer({"server-timing": "cdn;dur=3, queue;dur=1, prefill;dur=2.5, answer;dur=900"}, None)
    assert facts == {"phases": {"queue": 0.001, "prefill": 0.0025}}


def test_the_comment_at_the_end_knows_more_than_the_headers() -> None:
    comment = 'pd {"path": "local", "kv_tokens": 7, "queue_ms": 2, "first_step_ms": 5, "duration_ms": 99}'
    facts = proxy_facts.of_answer({"x-pd-path": "disaggregated", "server-timing": "queue;dur=1"}, comment)
    assert facts == {"path": "local", "kv_tokens": 7, "phases": {"queue": 0.002, "first_step": 0.005}}


def test_what_a_producer_loaded_from_a_store_may_be_known_only_at_the_end() -> None:
    assert proxy_facts.of_answer({"x-pd-store-tokens": "96"}, None) == {"store_tokens": 96}
    assert proxy_facts.of_answer({}, 'pd {"store_tokens": 0}') == {"store_tokens": 0}, "nothing was found there"


def test_who_computed_the_first_token_and_how_long_the_second_took() -> None:
    comment = 'pd {"first_token": "producer", "second_token_ms": 12.5}'
    assert proxy_facts.of_answer({}, comment) == {"first_token": "producer", "second_token": 0.0125}
    assert proxy_facts.of_answer({}, 'pd {"second_token_ms": null}') == {}, "an answer of one token"


@pytest.mark.parametrize(
    ("headers", "comment"),
    [
        ({"x-pd-kv-bytes": "many"}, None),
        ({}, "pd {"),
        ({}, "pd []"),
        ({}, 'pd {"queue_ms": "x"}'),
        ({}, 'pd {"second_token_ms": "x"}'),
    ],
)
def test_what_cannot_be_read_is_named(headers: dict[str, str], comment: str | None) -> None:
    with pytest.raises(UnexpectedAnswer, match="what the proxy says of the request cannot be read"):
        proxy_facts.of_answer(headers, comment)

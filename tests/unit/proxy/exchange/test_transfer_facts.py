"""Facts of a transfer that come inside a stream: for the proxy alone."""

import json
from typing import Any

from proxy.exchange.sse import TransferFacts

EARLY = {"transfer_id": "t1", "first_token": "producer", "expected_tokens": 12}
WHOLE = EARLY | {"bytes": 4096, "tokens": 12}


def comment(facts: dict[str, Any]) -> bytes:
    return b": pd-transfer " + json.dumps(facts).encode() + b"\n\n"


def test_they_are_taken_out_wherever_an_event_begins() -> None:
    facts = TransferFacts(json.dumps(EARLY))
    assert (facts.known, facts.complete) == (EARLY, False)
    assert facts.taken_from(b"data: 1\n\n" + comment(WHOLE) + b"data: 2\n\n") == b"data: 1\n\ndata: 2\n\n"
    assert (facts.known, facts.complete) == (WHOLE, True)


def test_several_in_one_chunk() -> None:
    facts = TransferFacts(None)
    assert facts.known == {}
    assert facts.taken_from(comment(EARLY) + b"data: 1\n\n" + comment(WHOLE)) == b"data: 1\n\n"
    assert facts.known == WHOLE


def test_what_looks_like_one_inside_an_event_stays() -> None:
    facts = TransferFacts(None)
    text = b'data: {"text": "' + b": pd-transfer {}" + b'"}\n\n'
    assert facts.taken_from(text) == text
    assert facts.taken_from(text + comment(WHOLE)) == text
    assert facts.known == WHOLE

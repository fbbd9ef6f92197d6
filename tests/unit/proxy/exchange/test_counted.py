"""What is counted of an answer on its way."""

import asyncio

import pytest

from proxy.exchange.counted import Counted
from proxy.telemetry.request_facts import RequestFacts


@pytest.mark.parametrize(
    ("pieces", "events"),
    [
        ([b'data: {"text": "a"}\n\ndata: {"text": "b"}\n\n', b"data: [DONE]\n\n"], 3),
        ([b'data: {"text": "write data: and data: again"}\n\n'], 1),
        ([b'event: delta\ndata: {"n": 1}\n\nevent: stop\ndata: {}\n\n'], 2),
        ([b": a comment\n\n"], 0),
    ],
)
def test_events_are_lines_of_data(pieces: list[bytes], events: int) -> None:
    counted = Counted(RequestFacts(0.0))

    async def take() -> list[bytes]:
        return [await counted.take(piece, None) for piece in pieces]

    assert asyncio.run(take()) == pieces
    assert (counted.events, counted.bytes) == (events, len(b"".join(pieces)))

"""What it takes to move a prompt's KV cache from the producer to the consumer, and to take it into a step there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.connector.client import Stream
from benchmarks.errors import RequestFailed
from benchmarks.profile.asking import ANSWER, CONTEXT, LONG, STREAMS, Asking
from benchmarks.profile.windows import longest_gap
from planner.fit import Sample

JOIN = "join"  # the kind of sample


@dataclass(frozen=True)
class Moved:
    """Of one length: seconds to the second token, and of them those that the connector calls exposed, of each repeat.

    bytes_per_token: of KV cache.
    """

    tokens: int
    second_s: Sequence[float]
    exposed_s: Sequence[float]
    bytes_per_token: float
    transport: str


async def transfers(asking: Asking) -> list[Moved]:
    found = []
    for tokens in _lengths(asking):
        facts: list[dict[str, Any]] = []
        second_s = await asking.repeated(partial(_second_token, asking, tokens, facts))
        exposed_s = [each["exposed_seconds"] for each in facts]
        bytes_per_token = facts[0]["bytes"] / facts[0].get("tokens", tokens)
        found.append(Moved(tokens, second_s, exposed_s, bytes_per_token, facts[0]["transport"]))
    return found


async def joins(asking: Asking) -> list[Sample]:
    """The longest gap of running streams while a KV cache arrives beside them, and joins them.

    The producer has it in its prefix cache: computing it would slow down streams on the same GPU or cores.
    """

    async def join(tokens: int) -> float:
        prompt = asking.prompts.next(tokens)
        await asking.ask(asking.routes.producer, prompt, 1)
        return await asking.beside_streams(asking.routes.pair, prompt, 3, longest_gap)

    found = []
    for tokens in _lengths(asking):
        seconds = await asking.repeated(partial(join, tokens))
        context = STREAMS * (CONTEXT + ANSWER / 2) + tokens
        parts = {"step_s": 1.0, "sequence_s": STREAMS + 1.0, "context_token_s": context}
        parts |= {"join_s": 1.0, "join_token_s": tokens}
        found.append(Sample(JOIN, f"{tokens:,} tokens that come to {STREAMS} streams", seconds, parts))
    return found


def _lengths(asking: Asking) -> Iterator[int]:
    for tokens in asking.lengths():
        if tokens >= LONG and tokens * asking.token_s <= asking.limits.longest_s:
            yield tokens


async def _second_token(asking: Asking, tokens: int, facts: list[dict[str, Any]]) -> float:
    """Appends to `facts` what the connector says of the transfer."""
    stream = await asking.ask(asking.routes.pair, asking.prompts.next(tokens), 3)
    facts.append(_facts(stream))
    return stream.itl_s[0]


def _facts(stream: Stream) -> dict[str, Any]:
    """Raises: RequestFailed: nothing has moved."""
    if stream.transfer is None or not stream.transfer.get("bytes"):
        raise RequestFailed("no KV cache came from the producer, the consumer computed it")
    return stream.transfer

"""What the scheduler's side tells the workers' side at each engine step.

With vLLM's in-process executor these objects are passed by reference: they are never changed after they were built.
`idle`: the step computes no token, so a worker may wait a moment for a transfer to end instead of spinning.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from connector.cache.layout import KVLayout
from connector.control.messages import Done, LayerPlace, Register
from connector.first_token.sampled import FirstSampled
from connector.telling.timeline import joined


@dataclass(frozen=True)
class Queued:
    """A prefill request has come; it may wait in vLLM's queue for long before its first chunk."""

    transfer_id: str
    request_id: str
    prompt: str  # as in a registration


@dataclass(frozen=True)
class Chunk:
    """A step computes `tokens` tokens of a prompt, up to token `step_end`.

    `block_ids`: by group its whole block table, null blocks included. `prompt_tokens`: of the part that is moved.
    """

    transfer_id: str
    request_id: str
    prompt_tokens: int
    block_ids: tuple[list[int], ...]
    step_end: int
    tokens: int


@dataclass(frozen=True)
class Released:
    """The request has ended on the producer; its blocks stay until the worker reports `request_id` as sent."""

    transfer_id: str
    request_id: str
    complete: bool  # its whole prompt was computed


@dataclass(frozen=True)
class ProducerStep:
    idle: bool
    chunks: list[Chunk] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)  # request ids whose blocks are rewritten from this step on
    released: list[Released] = field(default_factory=list)
    queued: list[Queued] = field(default_factory=list)
    sampled: list[FirstSampled] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    """A request of the consumer waits for `block_ids`, a list for each group, to be filled with `tokens` tokens."""

    transfer_id: str
    request_id: str
    tokens: int
    block_ids: tuple[list[int], ...]
    producers: list[str]  # control address of each rank of the producer, by rank
    registrations: list[dict[int, Register]]  # of each rank of the consumer, by the producer's rank

    def addressed(self) -> Iterator[tuple[str, Register]]:
        """Every registration, and where it goes."""
        for own in self.registrations:
            for rank, registration in own.items():
                yield self.producers[rank], registration


@dataclass(frozen=True)
class ConsumerStep:
    idle: bool
    loads: list[Load] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)  # transfer ids whose request was aborted while it waited


@dataclass(frozen=True)
class RankAddress:
    """How one rank of the consumer is reached, and what its cache looks like, as only its worker knows it; its
    scheduler puts this into the registrations that it sends."""

    control: str
    segments: dict[str, str]  # by transport
    host_identity: str
    layout: KVLayout


def unfilled(registrations: Mapping[int, Register], shares: Sequence[Done]) -> list[LayerPlace]:
    """What one rank of the consumer has asked for and no stage of the producer has written, though all say that they
    are done.

    Args: registrations: of that rank, by the producer's rank.
    """
    filled = set()
    for done in shares:
        layers = registrations[done.rank].layers
        filled |= {layer for place, layer in enumerate(layers) if done.filled is None or place in done.filled}
    asked = dict.fromkeys(layer for registration in registrations.values() for layer in registration.layers)
    return [layer for layer in asked if layer not in filled]


def sum_of_shares(shares: Sequence[Done]) -> Done:
    """One transfer's facts over its shares, which move at the same time: bytes add up, times overlap."""
    return Done(
        transfer_id=shares[0].transfer_id,
        rank=shares[0].rank,
        bytes=sum(share.bytes for share in shares),
        early_bytes=sum(share.early_bytes for share in shares),
        pieces=sum(share.pieces for share in shares),
        seconds=max(share.seconds for share in shares),
        exposed_seconds=max(share.exposed_seconds for share in shares),
        transport=shares[0].transport,
        first_token=next((share.first_token for share in shares if share.first_token is not None), None),
        timeline=joined([share.timeline for share in shares]),
    )

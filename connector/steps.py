"""What the scheduler's side tells the workers' side at each engine step.

With vLLM's in-process executor these objects are passed by reference: they are never changed after they were built.
`idle`: the step computes no token, so a worker may wait a moment for a transfer to end instead of spinning.
"""

from dataclasses import dataclass, field

from connector.messages import Done


@dataclass(frozen=True)
class Queued:
    """A prefill request has come; it may wait in vLLM's queue for long before its first chunk."""

    transfer_id: str
    request_id: str


@dataclass(frozen=True)
class Chunk:
    """A step computes the prompt of `transfer_id` up to token `step_end`; `block_ids` is its whole block table."""

    transfer_id: str
    request_id: str
    prompt_tokens: int
    block_ids: list[int]
    step_end: int


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


@dataclass(frozen=True)
class Load:
    """A request of the consumer waits for `block_ids` to be filled."""

    transfer_id: str
    request_id: str
    block_ids: list[int]
    producers: list[str]  # control address of each rank of the producer, by rank


@dataclass(frozen=True)
class ConsumerStep:
    idle: bool
    loads: list[Load] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)  # transfer ids whose request was aborted while it waited


@dataclass(frozen=True)
class RankAddress:
    """How one rank of the consumer is reached; its scheduler puts this into the registrations that it sends."""

    control: str
    segment: str
    layer_addresses: tuple[int, ...]
    block_stride: int


def sum_of_ranks(one: Done, other: Done) -> Done:
    """One transfer's facts over two ranks, which move their shares at the same time: bytes add up, times overlap."""
    return Done(
        transfer_id=one.transfer_id,
        bytes=one.bytes + other.bytes,
        early_bytes=one.early_bytes + other.early_bytes,
        pieces=one.pieces + other.pieces,
        seconds=max(one.seconds, other.seconds),
        exposed_seconds=max(one.exposed_seconds, other.exposed_seconds),
        transport=one.transport,
    )

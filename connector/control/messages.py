"""The control messages between a consumer and a producer: one-way, msgpack, each with a fixed schema.

    consumer ── Register ──▶ producer      the blocks that await the prompt's KV
    consumer ── Cancel   ──▶ producer      the consumer no longer wants them
    producer ── Mended   ──▶ consumer      the connection was broken: ask again for what you wait for
    producer ── FirstToken ▶ consumer      what it has sampled after the prompt, for the consumer's scheduler
    producer ── Done     ──▶ consumer      every byte has arrived
    producer ── Failed   ──▶ consumer      it will not be completed, and why
    producer ── Cancelled ─▶ consumer      no write is in flight any more and none will follow

A broken connection may have taken messages with it, so the consumer repeats Register or Cancel when it is mended.

Exactly one of Done, Failed and Cancelled answers a registration. After any of them the producer never writes to the
registered blocks again; what it has written may still be on its way where the answer says `unended`. Bytes themselves
never travel here: they go through the transfer engine.

A producer's own scheduler tells its ranks with Sampled, which is earlier than its next step.
"""

from typing import Annotated

import msgspec

# Addresses, sizes and block numbers: a negative one would be taken for a place counted from the end.
Natural = Annotated[int, msgspec.Meta(ge=0)]


class GroupBlocks(msgspec.Struct, frozen=True, array_like=True):
    """`block_ids[i]` receives position `first + i` of the prompt's block table in one group of layers."""

    first: Natural
    block_ids: list[Natural]


class LayerPlace(msgspec.Struct, frozen=True, array_like=True):
    """Where KV heads `[first_head, first_head + heads)` of a layer go: those of block `b` begin at
    `address + b * block_stride`, in bytes, a virtual address in the consumer's process. `cache`: what both sides must
    have in common of the layer."""

    name: str
    address: Natural
    block_stride: Natural
    first_head: Natural
    heads: Annotated[int, msgspec.Meta(ge=1)]
    cache: str = ""


class Register(msgspec.Struct, frozen=True, tag="register"):
    """Where one rank of the consumer wants its share of one prompt's cache from one rank of the producer.

    `groups` in the order in which vLLM numbers them. `layers` are the consumer's rank's own. Every stage of a pipeline
    is asked for all of them, because only it knows which it has; `Done` says which those were.
    """

    transfer_id: str
    engine_id: str  # the incarnation of the producer that is meant: another one at its address knows nothing of it
    fingerprint: str
    reply_to: str  # control address of the consumer's rank
    rank: Natural  # of the consumer
    shares: Annotated[int, msgspec.Meta(ge=1)]  # how many of the consumer's ranks register with this one
    segments: dict[str, str]  # name of its memory in the transfer engine, by transport
    host_identity: str
    tokens: Annotated[int, msgspec.Meta(ge=1)]  # of the prompt that the two sides move, held ones included
    groups: list[GroupBlocks]
    layers: list[LayerPlace]
    prompt: str = ""  # what `request_params.digest_of_prompt` makes of its tokens
    checksum: bool = False  # the answer must prove the bytes
    first_token_to: str = ""  # control address of the consumer's scheduler, where it wants the token: Done waits for it
    timeline: bool = False  # the answer shall tell when each write was


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Ends the whole transfer, every rank's share of it."""

    transfer_id: str
    reply_to: str


class Mended(msgspec.Struct, frozen=True, tag="mended"):
    address: str  # control address of the producer's rank


class Sampled(msgspec.Struct, frozen=True, tag="sampled"):
    transfer_id: str
    engine_id: str  # the incarnation whose scheduler says so
    token: Natural


class FirstToken(msgspec.Struct, frozen=True, tag="first_token"):
    """`engine_id` and `prompt` as in the registration that it answers."""

    transfer_id: str
    engine_id: str
    prompt: str
    token: Natural


class Done(msgspec.Struct, frozen=True, tag="done"):
    """Facts of a completed share: `seconds` from the first write to the last, `exposed_seconds` of them after the
    prefill had ended, `early_bytes` of `bytes` moved before that. `rank` is the producer's. `filled`: places in the
    registration's `layers` that the rank has and has written."""

    transfer_id: str
    rank: Natural
    bytes: int
    early_bytes: int
    pieces: int
    seconds: float
    exposed_seconds: float
    transport: str
    checksum: int | None = None
    first_token: Natural | None = None  # where the registration wanted it and the prefill has given one
    filled: list[Natural] | None = None  # None: all
    timeline: str = ""  # where the registration wanted it: telling/timeline.py


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """`delivered_blocks`: how many blocks of the registration's first group, from the first on, are complete in every
    layer. Of use where it is the only group."""

    transfer_id: str
    rank: Natural
    delivered_blocks: Natural
    cause: str
    unended: bool = False  # bytes that were posted may still arrive


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled"):
    transfer_id: str
    rank: Natural
    unended: bool = False  # as in `Failed`


Message = Register | Cancel | Mended | Sampled | FirstToken | Done | Failed | Cancelled
Outcome = Done | Failed | Cancelled

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode(payload: bytes) -> Message:
    """Raises: msgspec.DecodeError: for bytes that are not one of the messages above (ValidationError is one)."""
    return _decoder.decode(payload)

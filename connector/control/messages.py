"""The control messages between a consumer and a producer: one-way, msgpack, each with a fixed schema.

    consumer ── Register ──▶ producer      the blocks that await the prompt's KV
    consumer ── Cancel   ──▶ producer      the consumer no longer wants them
    producer ── Mended   ──▶ consumer      the connection was broken: ask again for what you wait for
    producer ── Done     ──▶ consumer      every byte has arrived
    producer ── Failed   ──▶ consumer      it will not be completed, and why
    producer ── Cancelled ─▶ consumer      no write is in flight any more and none will follow

A broken connection may have taken messages with it, so the consumer repeats Register or Cancel when it is mended.

Exactly one of Done, Failed and Cancelled answers a registration. After any of them the producer never writes to the
registered blocks again; what it has written may still be on its way where the answer says `unended`. Bytes themselves
never travel here: they go through the transfer engine.
"""

from typing import Annotated

import msgspec

# Addresses, sizes and block numbers: a negative one would be taken for a place counted from the end.
Natural = Annotated[int, msgspec.Meta(ge=0)]


class Register(msgspec.Struct, frozen=True, tag="register"):
    """Where one rank of the consumer wants its share of one prompt's KV from one rank of the producer.

    The share is KV heads `[first_head, first_head + heads)` of the model. `block_ids[i]` receives block
    `first_block + i` of the prompt. Addresses are virtual addresses in the consumer's process: the share's part of
    block `b` of layer `l` begins at `layer_addresses[l] + b * block_stride`, in bytes.
    """

    transfer_id: str
    engine_id: str  # the incarnation of the producer that is meant: another one at its address knows nothing of it
    fingerprint: str
    reply_to: str  # control address of the consumer's rank
    rank: Natural  # of the consumer
    shares: Annotated[int, msgspec.Meta(ge=1)]  # how many of the consumer's ranks register with this one
    segments: dict[str, str]  # name of its memory in the transfer engine, by transport
    host_identity: str
    layer_addresses: list[Natural]
    block_stride: Natural
    first_head: Natural
    heads: Natural
    first_block: Natural
    block_ids: list[Natural]
    prompt: str = ""  # what `scheduler.digest_of_prompt` makes of its tokens
    checksum: bool = False  # the answer must prove the bytes


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Ends the whole transfer, every rank's share of it."""

    transfer_id: str
    reply_to: str


class Mended(msgspec.Struct, frozen=True, tag="mended"):
    address: str  # control address of the producer's rank


class Done(msgspec.Struct, frozen=True, tag="done"):
    """Facts of a completed share: `seconds` from the first write to the last, `exposed_seconds` of them after the
    prefill had ended, `early_bytes` of `bytes` moved before that. `rank` is the producer's."""

    transfer_id: str
    rank: Natural
    bytes: int
    early_bytes: int
    pieces: int
    seconds: float
    exposed_seconds: float
    transport: str
    checksum: int | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """`delivered_blocks`: how many blocks of the registration, from its first on, are complete in every layer."""

    transfer_id: str
    rank: Natural
    delivered_blocks: Natural
    cause: str
    unended: bool = False  # bytes that were posted may still arrive


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled"):
    transfer_id: str
    rank: Natural
    unended: bool = False  # as in `Failed`


Message = Register | Cancel | Mended | Done | Failed | Cancelled
Outcome = Done | Failed | Cancelled

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode(payload: bytes) -> Message:
    """Raises: msgspec.DecodeError: for bytes that are not one of the messages above (ValidationError is one)."""
    return _decoder.decode(payload)

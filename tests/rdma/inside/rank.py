"""One rank, producer and consumer at once, on plain memory and without vLLM: python rank.py OPTIONS (a JSON object)

Engines, control channel and transfer state machine are the connector's own, put together as its `rank.py` does.
Prints its address as JSON, then obeys one JSON line after the other and answers each with one; `Rank` of `ranks.py` is
the other end. What cannot start is one line on stderr and exit status 1.
"""

import ctypes
import hashlib
import json
import logging
import mmap
import sys
import time
from typing import Any

from connector.cache.layout import CacheGroup, CacheLayer, Kind, KVLayout
from connector.cache.pieces import Piece
from connector.control.channel import Channel
from connector.control.control_key import ControlKey
from connector.control.messages import Cancel, GroupBlocks, LayerPlace, Message, Register
from connector.mooncake.engine import TransferError
from connector.mooncake.engines import open_engines
from connector.mooncake.rank_cache import HostMemory, RankCache
from connector.scheduling.steps import Chunk, ConsumerStep, Load, ProducerStep, Released
from connector.telling.stats import TransferStats
from connector.transfer.consumer import Consumer
from connector.transfer.producer import Pace, Producer
from connector.transfer.revocation import Revocation

LAYERS = 2
BLOCKS = 64
BLOCK_TOKENS = 16
PAGE = 64 << 10
MEMORY_BYTES = LAYERS * BLOCKS * PAGE
LAYER_BYTES = BLOCKS * PAGE


class HostFences:
    """As `connector.mooncake.fences.HostFences`, which is not imported here because its module needs torch."""

    def after(self, callback: Any) -> None:
        callback()

    def drain(self) -> None:
        pass

    def caught_up(self) -> bool:
        return True


class Rank:
    def __init__(self, options: dict[str, Any]) -> None:
        self._name: str = options["name"]
        memory = mmap.mmap(-1, MEMORY_BYTES + mmap.PAGESIZE)  # one page that no engine knows
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._memory = memory
        self._stats = TransferStats()
        self._engines = open_engines(
            self._name,
            options["host"],
            options["etcd"],
            options["transport"],
            options["device"],
            options["write_timeout"],
        )
        self._engines.register(self._base, MEMORY_BYTES)
        layers = [  # vLLM's block 0 is no block: what tests call 0 is 1 here
            CacheLayer(f"layer{number}", 0, self._base + number * LAYER_BYTES - PAGE, PAGE, PAGE, 0, 1, 1)
            for number in range(LAYERS)
        ]
        self._layout = KVLayout((CacheGroup(Kind.FULL, BLOCK_TOKENS),), tuple(layers), BLOCKS, "{}")
        cache = RankCache(self._layout, HostMemory(), self._engines)
        self._channel = Channel(options["host"], 0, ControlKey.from_secret("the key of these tests"))
        self._revocation = Revocation(self._engines, self._stats)
        self._lost: list[tuple[str, bool]] = []
        self._producer = Producer(
            engine_id=self._name,
            rank=0,
            cache=cache,
            wire=self._channel,
            fences=HostFences(),
            pace=Pace(options["patience"], options["write_timeout"], min_stream_tokens=0, sender_threads=4),
            stats=self._stats,
        )
        self._consumer = Consumer(
            rank=0,
            cache=cache,
            wire=self._channel,
            timeout=options["timeout"],
            cancel_timeout=options["write_timeout"] + 5,
            revoked=self._revocation.over,
            stats=self._stats,
        )
        self._channel.serve(self._on_message, self._on_tick, self._on_peer_lost, self._on_peer_back)

    def _on_message(self, message: Message) -> None:
        worker = self._producer if isinstance(message, Register | Cancel) else self._consumer
        worker.on_message(message)

    def _on_tick(self) -> None:
        self._producer.on_tick()
        self._consumer.on_tick()

    def _on_peer_lost(self, address: str, gone: bool) -> None:
        self._lost.append((address, gone))
        self._producer.on_peer_lost(address, gone)
        self._consumer.on_peer_lost(address, gone)

    def _on_peer_back(self, address: str) -> None:
        self._producer.on_peer_back(address)
        self._consumer.on_peer_back(address)

    @property
    def address(self) -> dict[str, Any]:
        return {
            "engine_id": self._name,
            "control": self._channel.address,
            "segments": self._engines.segments,
            "host": self._engines.host_identity,
            "base": self._base,
        }

    def revoke(self) -> dict[str, Any]:
        """What peers may do to this memory. Its address from now on."""
        segments = self._engines.segments
        while not self._revocation.over(segments, segments):
            time.sleep(0.05)
        return self.address

    def fill(self, byte: int) -> None:
        ctypes.memset(self._base, byte, MEMORY_BYTES)

    def sha256(self, start: int, stop: int) -> str:
        return hashlib.sha256(self._memory[start:stop]).hexdigest()

    def byte(self, offset: int) -> int:
        return self._memory[offset]

    def write(self, peer: dict[str, Any], pieces: list[list[int]]) -> str:
        """Past the state machine; offsets from each side's base. The error, empty when there is none."""
        transport = self._engines.choose(peer["segments"], peer["host"])
        moved = [Piece(self._base + source, peer["base"] + target, length) for source, target, length in pieces]
        try:
            self._engines.write(transport, peer["segments"][transport], moved)
        except TransferError as error:
            return str(error)
        return ""

    def prefill(self, transfer_id: str, blocks: list[int]) -> None:
        """One step computes the whole prompt, layer by layer; then the request ends."""
        tokens = len(blocks) * BLOCK_TOKENS
        chunk = Chunk(transfer_id, transfer_id, tokens, ([block + 1 for block in blocks],), tokens, tokens)
        self._producer.begin_step(ProducerStep(idle=False, chunks=[chunk]))
        for layer in range(LAYERS):
            self._producer.layer_computed(layer)
        self._producer.step_computed()
        released = Released(transfer_id, transfer_id, complete=True)
        self._producer.begin_step(ProducerStep(idle=True, released=[released]))

    def load(self, transfer_id: str, peer: dict[str, Any], blocks: list[int]) -> None:
        """Register with the producer and wait for it, as scheduler and worker do."""
        tokens = len(blocks) * BLOCK_TOKENS
        blocks = [block + 1 for block in blocks]
        registration = Register(
            transfer_id=transfer_id,
            engine_id=peer["engine_id"],
            fingerprint="{}",
            reply_to=self._channel.address,
            rank=0,
            shares=1,
            segments=self._engines.segments,
            host_identity=self._engines.host_identity,
            tokens=tokens,
            groups=[GroupBlocks(0, blocks)],
            layers=[LayerPlace(layer.name, layer.address, PAGE, 0, 1) for layer in self._layout.layers],
        )
        self._channel.send(peer["control"], registration)
        load = Load(transfer_id, transfer_id, tokens, (blocks,), [peer["control"]], [{0: registration}])
        self._consumer.begin_step(ConsumerStep(idle=True, loads=[load]))

    def finished(self, limit: float) -> list[str]:
        """Requests whose blocks may be freed, once there is one; none after `limit` seconds."""
        deadline = time.monotonic() + limit
        found: set[str] = set()
        while not found and time.monotonic() < deadline:
            found = self._producer.take_finished(0.1) | self._consumer.take_finished(0.1)
        return sorted(found)

    def arrived(self) -> dict[str, dict[str, Any]]:
        return {
            request: {"bytes": done.bytes, "transport": done.transport}
            for request, done in self._consumer.take_done().items()
        }

    def invalid_blocks(self) -> list[int]:
        return sorted(block - 1 for block in self._consumer.take_invalid_blocks())

    def stats(self) -> Any:
        """What becomes `pd_kv_*` in vLLM's /metrics."""
        return self._stats.take()

    def lost(self) -> list[tuple[str, bool]]:
        return self._lost


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    try:
        rank = Rank(json.loads(sys.argv[1]))
    except TransferError as error:
        sys.exit(str(error))
    print(json.dumps(rank.address), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(rank, name)(*arguments)), flush=True)


main()

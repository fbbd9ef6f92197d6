"""A producer's vLLM, simulated: its block pool, its steps with their calls into the connector, its GPU's memory.

Every byte of the KV cache tells which prompt, layer, block and head it belongs to, and how far that was computed.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from connector.cache.layout import KVLayout
from connector.transfer.producer import Producer
from connector.transfer.steps import Chunk, ProducerStep, Queued, Released

LAYERS, HEADS, HEAD_BYTES, BLOCK_TOKENS = 2, 2, 4, 4
NUM_BLOCKS = 16  # few, so that blocks are soon used again
SOURCE_START = 4096
PROMPT = "its tokens"  # digest of every prompt
UNTOUCHED = 0xEE


class Content(NamedTuple):
    """The bytes of one head of one block of one layer."""

    prompt: int
    layer: int
    block: int
    head_and_tokens: int

    @classmethod
    def of(cls, prompt: int, layer: int, block: int, head: int, tokens: int) -> "Content":
        return cls(prompt, layer, block, head << 4 | tokens)


def layout(start: int, heads: range) -> KVLayout:
    page = len(heads) * HEAD_BYTES
    addresses = tuple(start + layer * NUM_BLOCKS * page for layer in range(LAYERS))
    return KVLayout(addresses, page, HEAD_BYTES, heads.start, len(heads), NUM_BLOCKS)


SOURCE = layout(SOURCE_START, range(HEADS))


def empty_cache() -> bytearray:
    return bytearray([UNTOUCHED]) * (LAYERS * NUM_BLOCKS * HEADS * HEAD_BYTES)


def tokens_in(block: int, tokens: int) -> int:
    return max(0, min(BLOCK_TOKENS, tokens - block * BLOCK_TOKENS))


@dataclass
class Request:
    """Two of them may carry the same transfer (`n` > 1)."""

    request_id: str
    number: int  # of its transfer and prompt
    tokens: int
    known: bool = False  # the connector has been told of it
    scheduled: int = 0
    table: list[int] = field(default_factory=list)
    ended: bool = False
    let_go: bool = False  # by the connector

    @property
    def transfer_id(self) -> str:
        return f"t{self.number}"


class Gpu:
    """Runs what is enqueued at once, as a CPU does, or as far as the test lets it come."""

    def __init__(self, late: bool, rest: Callable[[], None]) -> None:
        self._late = late
        self._rest = rest  # between two pieces of work, so that each run goes the same way
        self.queue: deque[Callable[[], None]] = deque()

    def after(self, work: Callable[[], None]) -> None:
        self.queue.append(work)
        if not self._late:
            self.drain()

    def drain(self) -> None:
        self.advance(len(self.queue))

    def advance(self, count: int) -> None:
        for _ in range(min(count, len(self.queue))):
            self.queue.popleft()()
            self._rest()


class Cache:
    """The producer's KV cache. `owner` is who may count on a block's content."""

    def __init__(self) -> None:
        self._bytes = empty_cache()
        self.owner: dict[int, Request] = {}

    def compute(self, request: Request, table: Sequence[int], layer: int, end: int) -> None:
        """One layer of one step: K and V of the prompt's tokens up to `end`."""
        for block, block_id in enumerate(table):
            for head in range(HEADS):
                at = SOURCE.address(layer, block_id, head) - SOURCE_START
                content = Content.of(request.number, layer, block, head, tokens_in(block, end))
                self._bytes[at : at + HEAD_BYTES] = bytes(content)

    def read(self, address: int, length: int) -> memoryview:
        at = address - SOURCE_START
        return memoryview(bytes(self._bytes[at : at + length]))

    def owner_at(self, address: int) -> Request | None:
        return self.owner.get((address - SOURCE_START) // SOURCE.block_stride % NUM_BLOCKS)


@dataclass
class Preemption:
    """A step that cannot begin yet: the connector is asked whether any write still reads `blocks`."""

    thread: threading.Thread
    step: ProducerStep
    blocks: list[int]


class Vllm:
    """Its own thread is the test's, but for a preemption, which may have to wait for writes."""

    def __init__(self, producer: Producer, cache: Cache, gpu: Gpu) -> None:
        self._producer = producer
        self._cache = cache
        self._gpu = gpu
        self.requests: list[Request] = []
        self.free = list(range(NUM_BLOCKS))
        self.released: list[Released] = []  # for the next step to tell
        self.chunks: list[tuple[Request, list[int], int]] = []  # of the step under way, with its end
        self._layers: list[int] = []  # that it has not come to
        self.preemption: Preemption | None = None

    def new_request(self, number: int, tokens: int) -> None:
        twins = sum(request.number == number for request in self.requests)
        self.requests.append(Request(f"r{number}.{twins}", number, tokens))

    @property
    def running(self) -> list[Request]:
        return [request for request in self.requests if not request.ended]

    @property
    def all_let_go(self) -> bool:
        return all(request.let_go for request in self.requests)

    def begin_step(self, preempted: Sequence[Request], wanted: Sequence[tuple[Request, int]]) -> None:
        """The preempted requests' blocks may at once be given to `wanted`, which compute so many tokens more."""
        rewritten = [block for request in preempted for block in request.table]
        self.free = [*rewritten, *self.free]
        for request in preempted:
            request.table, request.scheduled = [], 0
        chunks = [self._chunk(request, tokens) for request, tokens in wanted if request.scheduled < request.tokens]
        queued = [
            Queued(request.transfer_id, request.request_id, PROMPT) for request in self.requests if not request.known
        ]
        for request in self.requests:
            request.known = True
        released, self.released = self.released, []
        step = ProducerStep(not chunks, chunks, [request.request_id for request in preempted], released, queued)
        if preempted:
            thread = threading.Thread(target=self._producer.rewrite_blocks_of, args=(step.preempted,), daemon=True)
            self.preemption = Preemption(thread, step, rewritten)
            thread.start()
        else:
            self._forward(step)

    def _chunk(self, request: Request, tokens: int) -> Chunk:
        tokens = min(tokens, request.tokens - request.scheduled)
        end = request.scheduled = request.scheduled + tokens
        while len(request.table) * BLOCK_TOKENS < end:
            request.table.append(self.free.pop(0))
        self.chunks.append((request, list(request.table), end))
        return Chunk(request.transfer_id, request.request_id, request.tokens, list(request.table), end, tokens)

    def go_on(self) -> bool:
        """Begin the step that waited for writes, if now it can."""
        if self.preemption is None or self.preemption.thread.is_alive():
            return False
        preemption, self.preemption = self.preemption, None
        for block in preemption.blocks:
            self._cache.owner.pop(block, None)
        self._forward(preemption.step)
        return True

    def _forward(self, step: ProducerStep) -> None:
        for request, table, _ in self.chunks:
            self._cache.owner.update(dict.fromkeys(table, request))
        self._producer.begin_step(step)
        self._layers = list(range(LAYERS))
        if step.idle:
            self._end_step()

    def compute_layer(self, hook: bool) -> None:
        """The step's next layer. Its hook may be left out: the end of the step speaks for all layers."""
        layer = self._layers.pop(0)
        for request, table, end in self.chunks:
            self._gpu.after(partial(self._cache.compute, request, table, layer, end))
        if hook:
            self._producer.layer_computed(layer)
        if not self._layers:
            self._end_step()

    def _end_step(self) -> None:
        self._producer.step_computed()
        self._producer.on_tick()
        for request_id in self._producer.take_finished(0.0):
            (request,) = (request for request in self.requests if request.request_id == request_id)
            assert request.ended, "it let go a request that runs"
            assert not request.let_go, "it let go a request twice"
            request.let_go = True
            self.free = [*request.table, *self.free]
            for block in request.table:
                del self._cache.owner[block]
        for request, _, _ in self.chunks:
            if request.scheduled == request.tokens:
                self.end_request(request)
        self.chunks = []

    def end_request(self, request: Request) -> None:
        """Aborted, or at its end; its blocks stay until the connector lets them go."""
        if not request.ended:
            request.ended = True
            complete = request.scheduled == request.tokens
            self.released.append(Released(request.transfer_id, request.request_id, complete))

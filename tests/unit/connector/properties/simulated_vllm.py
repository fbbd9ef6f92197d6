"""A producer's vLLM, simulated: its block pool, its steps with their calls into the connector, its GPU's memory.

Every byte of the KV cache tells which prompt, layer, position and head it belongs to, and how far that was computed.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

from connector.cache.layout import NULL_BLOCK, Kind, KVLayout
from connector.scheduling.producer_scheduler import ProducerScheduler
from connector.scheduling.steps import ProducerStep
from connector.transfer.producer import Producer
from tests.unit.connector.properties.simulated_cache import (
    RECYCLED,
    Model,
    Place,
    Tables,
    heads_of,
    memory_of,
    place_of_head,
)

SOURCE_START = 4096


@dataclass(eq=False)
class Request:
    """With those fields of vLLM's that the connector uses. Two of them may carry the same transfer (`n` > 1)."""

    request_id: str
    number: int  # of its transfer and prompt
    prompt_token_ids: list[int]
    tables: Tables
    num_computed_tokens: int = 0
    settled: int = 0  # tokens that steps which are over have computed
    prompt_embeds: None = None
    prompt_is_token_ids: None = None
    ended: bool = False
    let_go: bool = False  # by the connector
    kv_transfer_params: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.prompt_token_ids)
        self._all_token_ids = list(self.prompt_token_ids)
        self.kv_transfer_params = {"transfer_id": self.transfer_id, "do_remote_decode": True}

    def get_skip_reading_prefix_cache(self) -> bool:
        return False

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

    def caught_up(self) -> bool:
        return not self.queue

    def advance(self, count: int) -> None:
        for _ in range(min(count, len(self.queue))):
            self.queue.popleft()()
            self._rest()


class Cache:
    """The producer's KV cache. `owner`: who may count on a block's content, and as what."""

    def __init__(self, model: Model, layout: KVLayout) -> None:
        self.model, self.layout = model, layout
        self._bytes = memory_of(layout, SOURCE_START)
        self.owner: dict[int, tuple[Request, Place]] = {}

    def compute(self, prompt: int, tables: Sequence[list[int]], layer: int, start: int, end: int) -> None:
        """One layer of one step: the cache of the prompt's tokens from `start` up to `end`."""
        group = self.model.groups[self.layout.layers[layer].group]
        last = group.blocks(end) - 1
        for position in range(last if group.kind is Kind.STATE else start // group.block_tokens, last + 1):
            block = tables[self.layout.layers[layer].group][position]
            if block != NULL_BLOCK:  # of a prefix hit a window keeps only the last ones
                self._write(prompt, layer, block, position, end)

    def _write(self, prompt: int, layer: int, block: int, position: int, tokens: int) -> None:
        here = self.layout.layers[layer]
        for head in heads_of(here):
            at = place_of_head(here, block, head) - SOURCE_START
            self._bytes[at : at + here.head_bytes] = self.model.content(prompt, layer, head, position, tokens)

    def recycle(self, blocks: Sequence[int]) -> None:
        """Somebody else writes into them, as vLLM lets any request do at once."""
        for layer in self.layout.layers:
            for block in blocks:
                at = layer.address + block * layer.block_stride - SOURCE_START
                self._bytes[at : at + layer.page] = bytes([RECYCLED]) * layer.page

    def read(self, address: int, length: int) -> memoryview:
        at = address - SOURCE_START
        return memoryview(bytes(self._bytes[at : at + length]))


@dataclass
class Preemption:
    """A step that cannot begin yet: the connector is asked whether any write still reads `blocks`."""

    thread: threading.Thread
    step: ProducerStep
    blocks: list[int]


@dataclass
class Computing:
    """A request in the step under way."""

    request: Request
    tables: tuple[list[int], ...]
    hit: int  # tokens of a prefix that the request found in the cache just now
    start: int
    end: int


class Vllm:
    """Its own thread is the test's, but for a preemption, which may have to wait for writes.

    `ends_late`: that a request is at its end is known only when the next step begins, as with asynchronous scheduling;
    until then it may be preempted.
    """

    def __init__(
        self, producer: Producer, scheduler: ProducerScheduler, cache: Cache, gpu: Gpu, ends_late: bool
    ) -> None:
        self._producer, self.scheduler = producer, scheduler
        self._cache, self._gpu, self._ends_late = cache, gpu, ends_late
        self.requests: list[Request] = []
        self.free = list(range(NULL_BLOCK + 1, cache.layout.num_blocks))
        self.chunks: list[Computing] = []  # of the step under way
        self._recycled: list[int] = []  # freed, and not yet written into by somebody else
        self._layers: list[int] = []  # that the step has not come to
        self.preemption: Preemption | None = None

    def new_request(self, number: int, tokens: int) -> None:
        twins = sum(request.number == number for request in self.requests)
        request = Request(f"r{number}.{twins}", number, [number] * tokens, Tables(self._cache.model, self.free))
        self.requests.append(request)
        self.scheduler.on_new_request(request)

    @property
    def running(self) -> list[Request]:
        return [request for request in self.requests if not request.ended]

    @property
    def all_let_go(self) -> bool:
        return all(request.let_go for request in self.requests)

    def begin_step(self, preempted: Sequence[Request], wanted: Sequence[tuple[Request, int, int]]) -> None:
        """The preempted requests' blocks may at once be given to `wanted`: requests, the blocks of a prefix hit where
        they begin, and how many tokens more they compute."""
        self._end_requests([request for request in self.running if request not in preempted])
        rewritten = []
        for request in preempted:
            rewritten += request.tables.drop()
            request.num_computed_tokens = request.settled = 0
        self._recycled += rewritten
        for request, hit, tokens in wanted:
            if not request.ended and request.num_computed_tokens < request.num_prompt_tokens:
                self.chunks.append(self._chunk(request, hit, tokens))
        scheduled = {chunk.request.request_id: chunk.end - chunk.start for chunk in self.chunks}
        tables = {chunk.request.request_id: chunk.tables for chunk in self.chunks}
        output: Any = SimpleNamespace(
            num_scheduled_tokens=scheduled,
            total_num_scheduled_tokens=sum(scheduled.values()),
            preempted_req_ids={request.request_id for request in preempted},
            kv_connector_block_state=SimpleNamespace(get_block_ids=tables.get),
        )
        step = self.scheduler.build_step(output)
        for chunk in self.chunks:
            chunk.request.num_computed_tokens = chunk.end
        if preempted:
            thread = threading.Thread(target=self._producer.rewrite_blocks_of, args=(step.preempted,), daemon=True)
            self.preemption = Preemption(thread, step, rewritten)
            thread.start()
        else:
            self._forward(step)

    def _chunk(self, request: Request, hit: int, tokens: int) -> Computing:
        if request.num_computed_tokens == 0:
            hit = min(hit, (request.num_prompt_tokens - 1) // self._cache.model.alignment) * self._cache.model.alignment
            request.tables.load(hit)
            request.num_computed_tokens = hit
        else:
            hit = 0
        start = request.num_computed_tokens
        end = min(request.num_prompt_tokens, start + tokens)
        self._free_skipped(request, start)
        request.tables.allocate(end)
        return Computing(request, tuple(list(table) for table in request.tables.tables), hit, start, end)

    def _free_skipped(self, request: Request, computed: int) -> None:
        freed = request.tables.skip(computed)
        self._recycled += freed
        for block in freed:
            self._cache.owner.pop(block, None)

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
        for chunk in self.chunks:
            self._cache.owner.update({block: (chunk.request, place) for place, block in chunk.request.tables.live()})
        self._producer.begin_step(step)
        self._layers = list(range(len(self._cache.layout.layers)))
        if step.idle:
            self._end_step()

    def compute_layer(self, hook: bool) -> None:
        """The step's next layer. Its hook may be left out: the end of the step speaks for all layers."""
        if self._recycled:
            self._gpu.after(partial(self._cache.recycle, self._recycled))
            self._recycled = []
        layer = self._layers.pop(0)
        for chunk in self.chunks:
            number, tables = chunk.request.number, chunk.tables
            if chunk.hit:
                self._gpu.after(partial(self._cache.compute, number, tables, layer, 0, chunk.hit))
            self._gpu.after(partial(self._cache.compute, number, tables, layer, chunk.start, chunk.end))
        if hook:
            self._producer.layer_computed(layer)
        if not self._layers:
            self._end_step()

    def _end_step(self) -> None:
        self._producer.step_computed()
        self._producer.on_tick()
        finished = self._producer.take_finished(0.0)
        for request_id in finished:
            (request,) = (request for request in self.requests if request.request_id == request_id)
            assert request.ended, "it let go a request that runs"
            assert not request.let_go, "it let go a request twice"
            request.let_go = True
            for block in request.tables.drop():
                self._recycled.append(block)
                self._cache.owner.pop(block, None)
        self.scheduler.sent(finished)
        chunks, self.chunks = self.chunks, []
        for chunk in chunks:
            chunk.request.settled = chunk.end
        if not self._ends_late:
            self._end_requests(self.running)

    def _end_requests(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.settled == request.num_prompt_tokens:
                self.end_request(request)

    def end_request(self, request: Request) -> None:
        """Aborted, or at its end; its blocks stay until the connector lets them go."""
        if not request.ended:
            request.ended = True
            self._free_skipped(request, request.settled)
            kept = self.scheduler.request_finished(request, request.tables.tables)
            assert kept

"""The producer's rank in any order of events: steps, layers, preemptions, aborts, registrations, cancellations, losses.

Whatever happens: no write reads a block that is not final or was freed, or touches a target that was answered; what an
answer calls delivered is there; who asked gets one answer for each message; every request is let go once, after its
end; and when everybody has had patience enough, nothing is left.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from connector.engines import Engines
from connector.messages import Cancel, Done, Failed, Register
from connector.producer import Producer
from connector.stats import TransferStats
from connector.steps import Chunk, ProducerStep, Queued, Released
from tests.unit.connector.simulated_instance import (
    BLOCK_TOKENS,
    HEADS,
    LAYERS,
    LIMIT_S,
    NUM_BLOCKS,
    SOURCE,
    TARGET_START,
    Device,
    Engine,
    Mailbox,
    Request,
    Share,
    layout,
)

TRANSFERS, PATIENCE_S = 3, 10.0
MOST_REQUESTS = 4  # have room at once
# How a consumer's ranks split the heads; the last rank of the third has nothing to get and only learns the end.
SPLITS = [[range(HEADS)], [range(1), range(1, 2)], [range(HEADS), range(0)]]
IMPOSTORS = {
    "fingerprint": "other",
    "engine_id": "the one before",
    "layer_addresses": [0] * (LAYERS + 1),
    "block_ids": [],
    "heads": HEADS + 1,
    "segments": {"rdma": "impostor"},
}


@dataclass
class Plan:
    """What a transfer's consumer will ask for. `extra` blocks more than the prompt has make it another prompt."""

    tokens: int
    split: list[range]
    first_block: int
    extra: int
    targets: list[int]


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


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


plans = st.builds(
    lambda tokens, split, first, extra, targets: Plan(
        tokens, split, first % -(-tokens // BLOCK_TOKENS), extra, targets
    ),
    st.integers(1, 4 * BLOCK_TOKENS),
    st.sampled_from(SPLITS),
    st.integers(0, 3),
    st.sampled_from([0, 0, 0, 0, 0, 1]),
    st.sampled_from([list(range(NUM_BLOCKS)), list(range(NUM_BLOCKS - 1, -1, -1)), [5, 6, 1, 9, 8]]),
)
numbers = st.integers(0, TRANSFERS - 1)


class AnyOrder(RuleBasedStateMachine):
    @initialize(
        plans=st.lists(plans, min_size=TRANSFERS, max_size=TRANSFERS),
        late=st.booleans(),
        senders=st.integers(1, 4),
        min_stream_tokens=st.sampled_from([0, 5]),
        pace=st.sampled_from([1, 3, 8]),
        first=st.lists(st.sampled_from(["a request", "a request", "a registration"]), max_size=5),
    )
    def begin(
        self, plans: list[Plan], late: bool, senders: int, min_stream_tokens: int, pace: int, first: list[str]
    ) -> None:
        self.plans, self.senders = plans, senders
        self.pace = (
            pace  # so many steps forward let one thing go wrong, or every transfer would end before it has begun
        )
        self.forward, self.mishaps = 0, 0
        self.clock = Clock()
        self.clocks = [patch(f"connector.{module}.time", self.clock) for module in ("producer", "held", "senders")]
        for clock in self.clocks:
            clock.start()
        self.device, self.gpu = Device(), Gpu(late, self._wait_for_senders)
        self.shares: dict[str, Share] = {}
        self.unregistered = [(number, rank) for number, plan in enumerate(plans) for rank in range(len(plan.split))]
        self.engine, self.mailbox = Engine(self.device, self.shares), Mailbox(self.shares)
        self.stats = TransferStats()
        self.producer = Producer(
            engine_id="p",
            rank=0,
            engines=Engines({"tcp": self.engine}),
            layout=SOURCE,
            memory=self.device,
            block_size=BLOCK_TOKENS,
            fingerprint="same",
            send=self.mailbox.send,
            watch=lambda address: None,
            fences=self.gpu,
            patience=PATIENCE_S,
            min_stream_tokens=min_stream_tokens,
            sender_threads=senders,
            stats=self.stats,
        )
        self.engine.changed = self.producer._progress
        self.requests: list[Request] = []
        self.free = list(range(NUM_BLOCKS))
        self.released: list[Released] = []  # for the next step to tell
        self.chunks: list[tuple[Request, list[int], int]] = []  # of the step under way, with its end
        self.layers: list[int] = []  # that it has not come to
        self.rewriting: tuple[threading.Thread, ProducerStep, list[int]] | None = None
        self.believed: set[str] = set()  # segments whose first answer was found right
        for number, what in enumerate(first):  # else many runs would wait for a request for most of their time
            if what == "a request" and len(self.requests) < MOST_REQUESTS:
                self.new_request(number % TRANSFERS)
            else:
                self.register(number, checksum=False)

    def _may_go_wrong(self) -> bool:
        return self.mishaps < self.forward // self.pace

    # --- vLLM ---

    @precondition(lambda self: len(self.requests) < MOST_REQUESTS)
    @rule(number=numbers)
    def new_request(self, number: int) -> None:
        """The second of a transfer is a twin (`n` > 1); it must not disturb the first."""
        twins = sum(request.number == number for request in self.requests)
        self.requests.append(Request(f"r{number}.{twins}", number, self.plans[number].tokens))

    @precondition(lambda self: self.rewriting is None and not self.chunks)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        running = [request for request in self.requests if not request.ended]
        read = {write.share.number for write in self.engine.in_flight}
        preempted = [r for r in running if r.table and data.draw(st.integers(0, 1 if r.number in read else 5)) == 1]
        self._begin_step(
            preempted, [(r, data.draw(st.sampled_from([0, 1, 3, 4, 6, 9]))) for r in running if r not in preempted]
        )

    def _all_reported(self) -> bool:
        return all(request.reported for request in self.requests)

    def _begin_step(self, preempted: Sequence[Request], wanted: Sequence[tuple[Request, int]]) -> None:
        rewritten = [block for request in preempted for block in request.table]
        self.free = [*rewritten, *self.free]
        for request in preempted:
            request.table, request.scheduled = [], 0
        chunks = []
        for request, tokens in wanted:
            tokens = min(tokens, request.tokens - request.scheduled)
            if tokens:
                request.scheduled += tokens
                while len(request.table) * BLOCK_TOKENS < request.scheduled:
                    request.table.append(self.free.pop(0))
                self.chunks.append((request, list(request.table), request.scheduled))
                chunks.append(self._chunk(request, tokens))
        queued = [Queued(r.transfer_id, r.request_id) for r in self.requests if not r.known]
        for request in self.requests:
            request.known = True
        released, self.released = self.released, []
        step = ProducerStep(not chunks, chunks, [request.request_id for request in preempted], released, queued)
        if preempted:  # it may have to wait for writes
            thread = threading.Thread(target=self.producer.rewrite_blocks_of, args=(step.preempted,), daemon=True)
            self.rewriting = (thread, step, rewritten)
            thread.start()
        else:
            self._forward(step, [])
        self._quiet()

    def _chunk(self, request: Request, tokens: int) -> Chunk:
        return Chunk(
            request.transfer_id, request.request_id, request.tokens, list(request.table), request.scheduled, tokens
        )

    def _forward(self, step: ProducerStep, rewritten: list[int]) -> None:
        """Nobody reads the preempted requests' blocks any more: they belong to those that compute."""
        for block in rewritten:
            self.device.owner.pop(block, None)
        for request, table, _ in self.chunks:
            self.device.owner.update(dict.fromkeys(table, request))
        self.producer.begin_step(step)
        self.layers = list(range(LAYERS))
        if step.idle:
            self._end_step()

    @precondition(lambda self: self.rewriting is None and self.chunks)
    @rule(hook=st.booleans())
    def layer(self, hook: bool) -> None:
        self.forward += 1
        layer = self.layers.pop(0)
        for request, table, end in self.chunks:
            self.gpu.after(partial(self.device.compute, request, table, layer, end))
        if hook:
            self.producer.layer_computed(layer)
        if not self.layers:
            self._end_step()
        self._quiet()

    def _end_step(self) -> None:
        self.producer.step_computed()
        self.producer.on_tick()
        for request_id in self.producer.take_finished(0.0):
            (request,) = (request for request in self.requests if request.request_id == request_id)
            assert request.ended
            assert not request.reported
            assert not any(released.request_id == request_id for released in self.released)
            request.reported = True
            self.free = [*request.table, *self.free]
            for block in request.table:
                del self.device.owner[block]
        for request, _, _ in self.chunks:
            if request.scheduled == request.tokens:
                self._end_request(request)
        self.chunks = []

    @precondition(lambda self: self._may_go_wrong() and self.requests)
    @rule(index=st.integers(0, MOST_REQUESTS - 1))
    def abort(self, index: int) -> None:
        request = self.requests[index % len(self.requests)]
        if not request.ended:
            self.mishaps += 1
            self._end_request(request)

    def _end_request(self, request: Request) -> None:
        if not request.ended:
            request.ended = True
            complete = request.scheduled == request.tokens
            self.released.append(Released(request.transfer_id, request.request_id, complete))

    @precondition(lambda self: self.gpu.queue and self.rewriting is None)
    @rule(count=st.integers(1, 4))
    def gpu_advances(self, count: int) -> None:
        self.gpu.advance(count)
        self._quiet()

    # --- consumers ---

    @precondition(lambda self: self.unregistered)
    @rule(index=st.integers(0, 5), checksum=st.booleans())
    def register(self, index: int, checksum: bool) -> None:
        number, rank = self.unregistered.pop(index % len(self.unregistered))
        plan, heads = self.plans[number], self.plans[number].split[rank]
        blocks, there = -(-plan.tokens // BLOCK_TOKENS) + plan.extra, layout(TARGET_START, heads)
        asked = Register(
            transfer_id=f"t{number}",
            engine_id="p",
            fingerprint="same",
            reply_to=f"tcp://d{number}.{rank}:1",
            rank=rank,
            shares=len(plan.split),
            segments={"tcp": f"segment{number}.{rank}"},
            host_identity="",
            layer_addresses=list(there.layer_addresses),
            block_stride=there.block_stride,
            first_head=heads.start,
            heads=len(heads),
            first_block=plan.first_block,
            block_ids=plan.targets[: blocks - plan.first_block],
            checksum=checksum,
        )
        self.shares[asked.segments["tcp"]] = Share(asked, number, plan.tokens)
        self.producer.on_message(asked)
        self._quiet()

    @precondition(lambda self: self._may_go_wrong() and self.shares)
    @rule(index=st.integers(0, 5))
    def register_again(self, index: int) -> None:
        share = self._share(index)
        if not share.gone:
            self.mishaps += 1
            share.asked += 1
            self.producer.on_message(share.registration)
            self._quiet()

    def _share(self, index: int) -> Share:
        return list(self.shares.values())[index % len(self.shares)]

    @precondition(lambda self: self._may_go_wrong())
    @rule(number=numbers, lie=st.sampled_from(sorted(IMPOSTORS)))
    def register_wrongly(self, number: int, lie: str) -> None:
        fields = {
            "transfer_id": f"t{number}",
            "engine_id": "p",
            "fingerprint": "same",
            "reply_to": "tcp://impostor:1",
            "rank": 0,
            "shares": 1,
            "segments": {"tcp": "impostor"},
            "host_identity": "",
            "layer_addresses": [0] * LAYERS,
            "block_stride": 8,
            "first_head": 0,
            "heads": HEADS,
            "first_block": 0,
            "block_ids": [0],
        }
        self.mishaps += 1
        before = len(self.mailbox.others)
        self.producer.on_message(Register(**(fields | {lie: IMPOSTORS[lie]})))  # type: ignore[arg-type]
        (answer,) = self.mailbox.others[before:]
        assert isinstance(answer, Failed)
        assert answer.delivered_blocks == 0
        self._quiet()

    @precondition(lambda self: self._may_go_wrong() and self.shares)
    @rule(index=st.integers(0, 5))
    def cancel(self, index: int) -> None:
        share = self._share(index)
        if not share.gone:
            self.mishaps += 1
            share.asked += 1
            self.producer.on_message(Cancel(share.registration.transfer_id, share.registration.reply_to))
            self._quiet()

    @precondition(lambda self: self._may_go_wrong() and self.unregistered)
    @rule(index=st.integers(0, 5))
    def cancel_before_the_registration(self, index: int) -> None:
        number, rank = self.unregistered[index % len(self.unregistered)]
        self.mishaps += 1
        self.producer.on_message(Cancel(f"t{number}", f"tcp://d{number}.{rank}:1"))
        self._quiet()

    @precondition(lambda self: self._may_go_wrong() and self.shares)
    @rule(index=st.integers(0, 5), gone=st.booleans())
    def lose_peer(self, index: int, gone: bool) -> None:
        self.mishaps += 1
        share = self._share(index)
        share.gone = share.gone or gone
        self.producer.on_peer_lost(share.registration.reply_to, gone)
        self._quiet()

    # --- the network, and time ---

    @precondition(lambda self: self.engine.in_flight)
    @rule(index=st.integers(0, 3), lost=st.booleans())
    def write_returns(self, index: int, lost: bool) -> None:
        lost = lost and self._may_go_wrong()
        self.mishaps += lost
        self.forward += 1
        self._end_write(index, lost)

    def _end_write(self, index: int, lost: bool) -> None:
        writes = sorted(self.engine.in_flight, key=lambda write: write.share.registration.reply_to)
        self.engine.end(writes[index % len(writes)], lost)
        self._quiet()

    @precondition(lambda self: self._may_go_wrong())
    @rule()
    def patience_ends(self) -> None:
        self.mishaps += 1
        self._wait(PATIENCE_S * 1.1)

    def _wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.producer.on_tick()
        self._quiet()

    # --- between two events ---

    def _quiet(self) -> None:
        """Returns when every thread waits for an event of this test, having judged what they did until then."""
        while True:
            self._wait_until(lambda: self._senders_rest() and self._preemption_waits())
            for write in self.engine.in_flight:
                self.engine.assert_right(write)
            for segment, share in self.shares.items():
                assert len(share.answers) <= share.asked
                if share.answers and segment not in self.believed:
                    self.believed.add(segment)
                    share.assert_right()
            if self.rewriting is None or self.rewriting[0].is_alive():
                return
            _, step, rewritten = self.rewriting
            self.rewriting = None
            self._forward(step, rewritten)

    def _wait_for_senders(self) -> None:
        self._wait_until(self._senders_rest)

    def _wait_until(self, at_rest: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        with self.engine.changed:
            while not at_rest():
                assert time.monotonic() < deadline, "it never came to rest"
                self.engine.changed.wait(0.002)  # not everything that is waited for is announced

    def _senders_rest(self) -> bool:
        transfers = self.producer._transfers.values()
        writing = sum(share.state.writing for held in transfers for share in held.shares.values())
        return writing == len(self.engine.in_flight) and not (self.producer._senders._queue and writing < self.senders)

    def _preemption_waits(self) -> bool:
        """Or there is none. It waits once the blocks are forgotten and a write still reads them."""
        if self.rewriting is None or not self.rewriting[0].is_alive():
            return True
        transfers = self.producer._transfers.values()
        preempted = [held for held in transfers if held.request_id in self.rewriting[1].preempted]
        return any(share.state.writing for held in preempted for share in held.shares.values()) and not any(
            held.prompt.block_ids for held in preempted
        )

    # --- the end ---

    def teardown(self) -> None:
        if "producer" not in self.__dict__:
            return
        try:
            if sys.exc_info()[0] is None:
                self._let_everything_end()
                self._assert_nothing_is_left()
        finally:
            for write in self.engine.in_flight:
                write.over.set()
            self.producer.close()
            for clock in self.clocks:
                clock.stop()

    def _let_everything_end(self) -> None:
        """Requests come, run to their ends and writes return; then only patience is left to wait for."""
        for number in set(range(TRANSFERS)) - {request.number for request in self.requests}:
            if len(self.requests) < MOST_REQUESTS:
                self.new_request(number)
        for _ in range(20):
            while self.engine.in_flight:
                self._end_write(0, lost=False)
            self.gpu.drain()
            self._quiet()
            if self.chunks:
                self.layer(hook=False)
            elif self.released or any(not request.ended for request in self.requests):
                self._begin_step([], [(request, request.tokens) for request in self.requests if not request.ended])
            elif self.producer._transfers or not self._all_reported():
                self._wait(PATIENCE_S * 1.1)
                self._begin_step([], [])

    def _assert_nothing_is_left(self) -> None:
        assert not self.producer._transfers
        assert self._all_reported()
        assert sorted(self.free) == list(range(NUM_BLOCKS))
        delivered = 0
        for share in self.shares.values():
            assert share.answers or share.gone
            assert share.asked > 1 or len(share.answers) <= 1
            if share.answers:
                share.assert_right()
                delivered += isinstance(share.answers[0], Done) and share.registration.heads > 0
        counted = (self.stats.take() or {"counted": []})["counted"]
        totals = {
            name: sum(row[-1] for row in counted if row[0] == name) for name in ("sent_bytes", "delivered_shares")
        }
        assert totals == {"sent_bytes": self.engine.bytes_landed, "delivered_shares": delivered}


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(derandomize=True, max_examples=150, stateful_step_count=50, deadline=None)

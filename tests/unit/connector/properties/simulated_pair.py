"""A producer's rank and a consumer's, each in a process that can be stopped, and the connections between them, in
simulated time.

A connection is given up by its awake end once the other has been silent for as long as heartbeats allow; that takes
what is on its way with it, or not. It is made again soon after both are awake. `Link` does what `Peers` does.
"""

from dataclasses import dataclass, field

from connector.cache.heads import sources
from connector.cache.layout import KVLayout
from connector.control.messages import GroupBlocks, Message
from connector.control.peers import MEND_S, PROBE_S, RECONNECT_MAX_MS
from connector.mooncake.engines import Engines
from connector.mooncake.rank_cache import RankCache
from connector.scheduling.steps import ConsumerStep, Load
from connector.telling.stats import TransferStats
from connector.transfer.consumer import Consumer
from connector.transfer.producer import Producer
from tests.unit.connector.fake_layouts import MIXED_SOURCE, MIXED_TARGET, SOURCE, TARGET, page_of
from tests.unit.connector.fakes import Access, ArrayMemory, Outbox, never_opened, registrations, until
from tests.unit.connector.transfer.producer_rank import Rank

STEP_S = 0.1
PATIENCE_S, TIMEOUT_S, CANCEL_TIMEOUT_S = 30.0, 60.0, 35.0
PROGRESS_TIMEOUT_S = 6.0  # after which Mooncake gives up a write to a process that is stopped
REVOCATION_S = 0.7
SENDERS = 2
TOKENS = 10  # of each prompt that are moved
PRODUCER, CONSUMER = "tcp://p:1", "tcp://d:1"
CACHES = {"one group": (SOURCE, TARGET), "several groups": (MIXED_SOURCE, MIXED_TARGET)}


def tables_of(layout: KVLayout, number: int) -> tuple[list[int], ...]:
    """Of transfer `number`, on either side."""
    tables, block = [], 1 + number * sum(group.blocks(TOKENS) for group in layout.groups)
    for group in layout.groups:
        tables.append(list(range(block, block + group.blocks(TOKENS))))
        block += group.blocks(TOKENS)
    return tuple(tables)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Process:
    """`silence`: seconds for which it is stopped until the other gives up its own connection, and this process's."""

    address: str
    silence: tuple[float, float]
    worker: Producer | Consumer = field(init=False)
    stopped_for: float | None = None


class Link(Outbox):
    """One process's own connection to the other, on which it sends."""

    def __init__(self, owner: Process, peer: Process, lossy: bool) -> None:
        super().__init__(owner.address)
        self._owner, self._peer, self._lossy = owner, peer, lossy
        self._queued: list[Message] = []  # in ZeroMQ
        self._on_its_way: list[Message] = []
        self._up = True
        self._down_for = 0.0  # in its owner's awake time
        self._reports = 0

    def send(self, address: str, message: Message) -> None:
        assert address == self._peer.address
        super().send(address, message)
        self._queued.append(message)

    def advance(self, both_awake_for: float, reconnect_s: float) -> None:
        owner, peer = self._owner, self._peer
        for process, silence in ((peer, peer.silence[0]), (owner, owner.silence[1])):
            other = owner if process is peer else peer
            if self._up and other.stopped_for is None and (process.stopped_for or 0.0) >= silence:
                self._up, self._down_for, self._reports = False, 0.0, 0
                self._on_its_way = [] if self._lossy else self._on_its_way
        if not self._up and both_awake_for >= reconnect_s:
            self._up = True
            owner.worker.on_peer_back(peer.address)
        if not self._up and owner.stopped_for is None:
            self._down_for += STEP_S
            if self._down_for >= MEND_S + self._reports * PROBE_S:
                self._reports += 1
                owner.worker.on_peer_lost(peer.address, False)
        if peer.stopped_for is None:
            arrived, self._on_its_way = self._on_its_way, []
            for message in arrived:
                peer.worker.on_message(message)
        if self._up and owner.stopped_for is None:
            self._on_its_way += self._queued
            self._queued = []


class Pair:
    """Both ranks. What is computed, and that a standstill begins and ends, is the test's to say."""

    def __init__(self, clock: Clock, cache: str, lossy: bool, reconnect_s: float, phases: tuple[float, float]) -> None:
        self.clock = clock
        layouts = CACHES[cache]
        self._layout = layouts[1]
        self._reconnect_s = min(reconnect_s, RECONNECT_MAX_MS / 1000)
        self.p, self.d = Process(PRODUCER, phases), Process(CONSUMER, phases)
        self._links = [Link(self.p, self.d, lossy), Link(self.d, self.p, lossy)]
        self._both_awake_for = 0.0
        self.rank = Rank(
            patience=PATIENCE_S,
            write_timeout=CANCEL_TIMEOUT_S - 5,
            outbox=self._links[0],
            senders=SENDERS,
            layouts=layouts,
        )
        self.engine = self.rank.engine
        self.p.worker = self.producer = self.rank.producer
        self.access = Access()
        self._revoking_since: float | None = None
        self.segment = self.access.segments["tcp"]
        self.d.worker = self.consumer = Consumer(
            rank=0,
            cache=RankCache(self._layout, ArrayMemory(bytearray()), Engines({}, never_opened)),
            wire=self._links[1],
            timeout=TIMEOUT_S,
            cancel_timeout=CANCEL_TIMEOUT_S,
            revoked=self.access.over,
            stats=TransferStats(),
        )
        self.reported: dict[int, bool] = {}  # transfers whose end vLLM was told, and whether they arrived whole
        self._memory_at_the_end: dict[int, bytes] = {}
        self._computed: dict[int, int] = {}
        self.revocations = 0

    def begin(self, number: int) -> None:
        """A request of the consumer."""
        groups = self._groups_of(number)
        plan = sources(1, 1, {layer.all_heads for layer in self._layout.layers})
        segments = dict(self.access.segments)
        asked = registrations(f"t{number}", groups, TOKENS, plan, segments, self._layout)
        blocks = tuple(group.block_ids for group in groups)
        load = Load(f"t{number}", f"r{number}", TOKENS, blocks, [PRODUCER], asked)
        for address, registration in load.addressed():
            self._links[1].send(address, registration)
        self.consumer.begin_step(ConsumerStep(idle=True, loads=[load]))

    def _groups_of(self, number: int) -> list[GroupBlocks]:
        tables = tables_of(self._layout, number)
        return [
            GroupBlocks(*group.wanted(table, TOKENS, 0))
            for group, table in zip(self._layout.groups, tables, strict=True)
        ]

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.clock.now += STEP_S
            awake = [process for process in (self.p, self.d) if process.stopped_for is None]
            self._both_awake_for = self._both_awake_for + STEP_S if len(awake) == 2 else 0.0
            for process in (self.p, self.d):
                if process.stopped_for is not None:
                    process.stopped_for += STEP_S
            if self.d.stopped_for is not None and self.d.stopped_for >= PROGRESS_TIMEOUT_S:
                self.engine.without_end.add(self.segment)
                self.engine.gates[self.segment].opened.set()
            for link in self._links:
                link.advance(self._both_awake_for, self._reconnect_s)
            self._quiet()
            for process in awake:
                process.worker.on_tick()
            if self.d.stopped_for is None:
                self._revoke_what_is_due()
                self._step_of_the_consumer()
            if self.p.stopped_for is None:
                self.rank.collect()
            self._quiet()

    def compute(self, number: int, end: int) -> None:
        """The producer's vLLM computes the prompt up to token `end`; with its last one the request ends."""
        if self._computed.get(number, 0) < end:
            self._computed[number] = end
            self.rank.chunk(number, TOKENS, tables_of(self._layout, number), end)
            if end == TOKENS:
                self.rank.release(number)
            self._quiet()

    def hold_writes(self) -> None:
        """What is posted from now on stands still."""
        if self.segment not in self.engine.gates:
            self.engine.hold(self.segment)

    def stop(self, *processes: Process) -> None:
        for process in processes:
            process.stopped_for = 0.0
        self.hold_writes()

    def wake(self, broken_write: bool) -> None:
        """`broken_write`: Mooncake finds the connection of a write that stood still too old, and gives it up."""
        stopped = [process for process in (self.p, self.d) if process.stopped_for is not None]
        broken = broken_write and any((process.stopped_for or 0) >= PROGRESS_TIMEOUT_S for process in stopped)
        (self.engine.without_end.add if broken else self.engine.without_end.discard)(self.segment)
        self.engine.gates[self.segment].opened.set()
        self._quiet()
        for process in stopped:
            process.stopped_for = None
        self.engine.without_end.discard(self.segment)

    def assert_agreed(self, number: int) -> None:
        """Both go on with the transfer, or both have ended it."""
        held = self.producer._transfers.get(f"t{number}")
        share = held.shares.get(0) if held is not None else None
        goes_on = share is not None and share.state.ending is None
        if number in self.reported:
            assert not goes_on, "the producer does not know that nobody waits"
        else:
            assert goes_on, "the consumer waits for nothing"
            waiting = self.consumer._waiting[f"t{number}"]
            assert not waiting.cancelled
            assert not waiting.silent

    def assert_all_over(self, transfers: int) -> None:
        if self.segment not in self.engine.broken:  # it was not taken back: late bytes come through
            for segment, pieces in self.engine.unended:
                self.engine.land(segment, pieces)
        self._step_of_the_consumer()
        assert self.reported.keys() == set(range(transfers))
        assert not self.consumer._waiting
        self.rank.until_released(*(f"r{number}" for number in range(transfers)))
        self.rank.assert_nothing_left()

    def close(self) -> None:
        for gate in self.engine.gates.values():
            gate.opened.set()
        self.producer.close()

    def _revoke_what_is_due(self) -> None:
        if not self.access.asked:
            return
        self._revoking_since = self._revoking_since or self.clock.now
        if self.clock.now >= self._revoking_since + REVOCATION_S:
            self.engine.broken.add(self.segment)
            self.access.revoke()
            self.revocations += 1
            self._revoking_since = None

    def _step_of_the_consumer(self) -> None:
        finished, failed = self.consumer.take_finished(0.0), self.consumer.take_failed()
        invalid = self.consumer.take_invalid_blocks()
        self.consumer.take_done()
        for request in finished:
            number = int(request.removeprefix("r"))
            assert number not in self.reported
            groups = self._groups_of(number)
            whole = request not in failed and not invalid.intersection(groups[0].block_ids)
            self.reported[number] = whole
            if whole:
                self.rank.assert_groups_arrived(number, groups, TOKENS, segment=self.segment)
            self._memory_at_the_end[number] = self._memory_of(number)
        for number, memory in self._memory_at_the_end.items():
            assert memory == self._memory_of(number), "a byte came after the end"

    def _memory_of(self, number: int) -> bytes:
        target = self.engine.target(self.segment)
        groups = self._groups_of(number)
        pages = [
            page_of(target, self._layout, number, block)
            for number, layer in enumerate(self._layout.layers)
            for block in groups[layer.group].block_ids
        ]
        return b"".join(pages)

    def _quiet(self) -> None:
        """Returns when each sender waits for work, or for the end of a write that stands still."""
        until(self._senders_rest)

    def _senders_rest(self) -> bool:
        with self.producer._lock:
            transfers = self.producer._transfers.all()
            writing = sum(share.state.writing for held in transfers for share in held.shares.values())
            queued = len(self.producer._senders._queue)
        gate = self.engine.gates.get(self.segment)
        if gate is None or gate.opened.is_set():
            return writing == queued == 0
        standing = len(self.engine.writes) - self.engine.returned
        return writing == standing and (queued == 0 or standing == SENDERS)

"""The consumer's rank in any order of events: loads, answers early and late, lost producers, aborts, standstills, time.

Whatever happens: a request is reported once, not before nobody can write into its blocks any more, and at the latest
when both its times have run out; as received whole only if every rank said so and proved it, over every group; and what
may not have arrived is named: block by block where vLLM can go on from the rest, else the whole request. A producer
that is back is asked again for all that is awaited of it, and time in which the process stood still has not passed.
"""

import sys
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from connector.cache.heads import sources
from connector.control.awake_time import LONGEST_PAUSE_S
from connector.control.messages import Cancel, Cancelled, Done, Failed, GroupBlocks, Mended, Message, Outcome, Register
from connector.mooncake.checksum import checksum_of_registered
from connector.mooncake.engines import Engines
from connector.mooncake.rank_cache import RankCache
from connector.scheduling.steps import ConsumerStep, Load
from connector.telling.stats import TransferStats
from connector.transfer.consumer import LAST_BYTES_S, Consumer
from tests.unit.connector.fakes import Access, never_opened, registrations
from tests.unit.connector.properties.simulated_cache import MOST_TOKENS, Model, Packing, Tables, models
from tests.unit.connector.properties.simulated_loads import (
    CANCEL_TIMEOUT_S,
    START,
    TIMEOUT_S,
    Arrived,
    Clock,
    Transfer,
)

MOST_TRANSFERS = 12  # in one run; the events are of the latest three


class AnyOrder(RuleBasedStateMachine):
    @initialize(model=models(unsplit=False), overlaid=st.booleans())
    def begin(self, model: Model, overlaid: bool) -> None:
        self.model = model
        num_blocks = 1 + MOST_TRANSFERS * model.blocks_of_a_request
        self.layout = model.layout(0, 1, START, num_blocks, Packing(overlaid, False, 3))
        self.arrived = Arrived(self.layout)
        self.free = list(range(1, num_blocks))
        self.clock = Clock()
        self.patched = patch("connector.control.awake_time.time", self.clock)
        self.patched.start()
        self.transfers: list[Transfer] = []
        self.cancels: list[tuple[str, str]] = []
        self.asked_again: list[tuple[str, str]] = []
        self.access = Access()
        self.consumer = Consumer(
            rank=0,
            cache=RankCache(self.layout, self.arrived, Engines({}, never_opened)),
            wire=self,
            timeout=TIMEOUT_S,
            cancel_timeout=CANCEL_TIMEOUT_S,
            revoked=self.access.over,
            stats=TransferStats(),
        )

    address = "tcp://d:1"

    def watch(self, address: str) -> None:
        pass

    def send(self, address: str, message: Message) -> None:
        assert isinstance(message, Cancel | Register)
        if isinstance(message, Register):
            (transfer,) = (t for t in self.transfers if t.load.transfer_id == message.transfer_id)
            assert message in transfer.load.registrations[0].values()
            assert transfer.cancelled is None
            self.asked_again.append((address, message.transfer_id))
            return
        assert (address, message.transfer_id) not in self.cancels, "it was told to stop twice"
        self.cancels.append((address, message.transfer_id))
        (transfer,) = (t for t in self.transfers if t.load.transfer_id == message.transfer_id)
        transfer.cancelled = transfer.cancelled if transfer.cancelled is not None else self.clock.awake

    @property
    def open(self) -> list[Transfer]:
        return [transfer for transfer in self.transfers if transfer.begun and not transfer.reported]

    def _one_of_the_latest(self, index: int) -> Transfer:
        return self.transfers[-3:][index % len(self.transfers[-3:])]

    @precondition(lambda self: len(self.transfers) < MOST_TRANSFERS and len(self.open) < 3)
    @rule(ranks=st.sampled_from([1, 1, 2, 4]), tokens=st.integers(1, MOST_TOKENS), held=st.sampled_from([0, 0, 1]))
    def new_transfer(self, ranks: int, tokens: int, held: int) -> None:
        number = len(self.transfers)
        held = min(held, (tokens - 1) // self.model.alignment) * self.model.alignment
        tables = Tables(self.model, self.free)
        tables.load(held)
        tables.load(tokens)
        groups = [
            GroupBlocks(*group.wanted(table, tokens, held))
            for group, table in zip(self.layout.groups, tables.tables, strict=True)
        ]
        plan = sources(1, ranks, {layer.heads for layer in self.model.layers})
        asked = registrations(f"t{number}", groups, tokens, plan, dict(self.access.segments), self.layout)
        load = Load(
            f"t{number}",
            f"r{number}",
            tokens - held,
            tuple(group.block_ids for group in groups),
            [f"tcp://p{number}.{rank}:1" for rank in range(ranks)],
            asked,
        )
        proofs = {
            rank: checksum_of_registered(self.arrived, self.layout, registration)
            for rank, registration in asked[0].items()
        }
        self.transfers.append(Transfer(load, plan[0], proofs))

    @precondition(lambda self: self.transfers)
    @rule(index=st.integers(0, 2), aborted=st.sampled_from([False, False, True]))
    def begin_step(self, index: int, aborted: bool) -> None:
        """The scheduler's word on a load comes once, and may come together with its abort."""
        transfer = self._one_of_the_latest(index)
        loads = [] if transfer.begun else [transfer.load]
        if loads and transfer.answered is not None:
            transfer.forgotten = self.clock.awake > transfer.answered + TIMEOUT_S
        transfer.begun = True
        if aborted and not transfer.reported:
            transfer.aborted = True
        ended = [transfer.load.transfer_id] if aborted else []
        self.consumer.begin_step(ConsumerStep(idle=False, loads=loads, aborted=ended))
        self._judge()

    @precondition(lambda self: self.transfers)
    @rule(
        index=st.integers(0, 2),
        rank=st.integers(0, 3),
        what=st.sampled_from(["done", "proved", "disproved", "failed", "cancelled"]),
        blocks=st.integers(0, 4),
        unended=st.sampled_from([False, False, True]),
    )
    def answer(self, index: int, rank: int, what: str, blocks: int, unended: bool) -> None:
        transfer = self._one_of_the_latest(index)
        source = transfer.sources[rank % len(transfer.sources)]
        transfer_id, count = transfer.load.transfer_id, len(transfer.load.block_ids[0])
        proof = {"done": None, "proved": transfer.proofs[source.rank], "disproved": transfer.proofs[source.rank] ^ 1}
        message: Outcome
        if what in proof:
            message = Done(transfer_id, source.rank, 100 + source.rank, 0, 1, 0.5, 0.1, "tcp", proof[what])
        elif what == "failed":
            message = Failed(transfer_id, source.rank, min(blocks, count), "write failed: x", unended)
        else:
            message = Cancelled(transfer_id, source.rank, unended)
        if source.rank in transfer.believed:  # an ended transfer's cancellation is answered, too
            message = Cancelled(transfer_id, source.rank)
        transfer.answered = transfer.answered if transfer.answered is not None else self.clock.awake
        transfer.believed.setdefault(source.rank, message)
        self.consumer.on_message(message)
        self._judge()

    @precondition(lambda self: self.open)
    @rule(index=st.integers(0, 2), rank=st.integers(0, 3), gone=st.booleans())
    def lose_peer(self, index: int, rank: int, gone: bool) -> None:
        transfer = self.open[index % len(self.open)]
        address = transfer.load.producers[rank % len(transfer.sources)]
        since = transfer.gone if gone else transfer.silent
        since.setdefault(rank % len(transfer.sources), self.clock.awake)
        self.consumer.on_peer_lost(address, gone)
        self._judge()

    @precondition(lambda self: self.open)
    @rule(index=st.integers(0, 2), rank=st.integers(0, 3), told=st.booleans())
    def peer_is_back(self, index: int, rank: int, told: bool) -> None:
        transfer = self.open[index % len(self.open)]
        rank %= len(transfer.sources)
        address, transfer_id = transfer.load.producers[rank], transfer.load.transfer_id
        transfer.silent.pop(rank, None)
        self.asked_again = []
        self.cancels = [sent for sent in self.cancels if sent != (address, transfer_id)]
        if told:
            self.consumer.on_message(Mended(address))
        else:
            self.consumer.on_peer_back(address)
        if rank in self.consumer._waiting[transfer_id].missing:
            assert ((address, transfer_id) in self.asked_again) == (transfer.cancelled is None)
            assert ((address, transfer_id) in self.cancels) == (transfer.cancelled is not None)
        else:
            assert (address, transfer_id) not in self.asked_again + self.cancels
        self._judge()

    @precondition(lambda self: self.open or len(self.transfers) == MOST_TRANSFERS)
    @rule(seconds=st.sampled_from([0.1, 0.1, 0.1, LAST_BYTES_S * 1.1, CANCEL_TIMEOUT_S * 1.01, TIMEOUT_S * 1.01]))
    def time_passes(self, seconds: float) -> None:
        while seconds > 0:
            step = min(seconds, LONGEST_PAUSE_S)
            self._pass(step, step)
            seconds -= step
        self._judge()

    @rule(seconds=st.sampled_from([5.0, TIMEOUT_S, 1000.0]))
    def stands_still(self, seconds: float) -> None:
        self._pass(seconds, LONGEST_PAUSE_S)
        self._judge()

    def _pass(self, real: float, awake: float) -> None:
        self.clock.real += real
        self.clock.awake += awake
        self.consumer.on_tick()

    @precondition(lambda self: self.access.asked)
    @rule()
    def revoke(self) -> None:
        self.access.revoke()
        self.consumer.on_tick()
        self._judge()

    def _may_be_written(self, transfer: Transfer) -> list[bool]:
        return [
            transfer.may_be_written(source.rank, self.clock.awake, self.access.segments) for source in transfer.sources
        ]

    def _judge(self) -> None:
        """What vLLM hears at the end of a step."""
        reported = self.consumer.take_finished(0.0)
        invalid, failed, done = (
            self.consumer.take_invalid_blocks(),
            self.consumer.take_failed(),
            self.consumer.take_done(),
        )
        expected: set[int] = set()
        for transfer in self.transfers:
            load = transfer.load
            if load.request_id not in reported:
                all_answered = len(transfer.believed) == len(transfer.sources) and not transfer.forgotten
                over = all_answered and not any(self._may_be_written(transfer))
                assert transfer.reported or self.access.asked or not (transfer.begun and over)
                continue
            assert transfer.begun
            assert not transfer.reported
            transfer.reported = True
            assert not any(self._may_be_written(transfer))
            lost = load.request_id not in done
            if not lost:
                assert transfer.whole
                assert done[load.request_id].bytes == sum(100 + source.rank for source in transfer.sources)
            if not transfer.aborted:
                assert (load.request_id in failed) == (lost and not self.layout.partial_loads)
                if lost and self.layout.partial_loads:
                    expected |= set(load.block_ids[0][transfer.delivered :])
        assert failed <= reported
        assert invalid >= expected
        assert invalid <= {
            block
            for transfer in self.transfers
            if transfer.load.request_id in reported and self.layout.partial_loads
            for block in transfer.load.block_ids[0]
        }

    def teardown(self) -> None:
        if "consumer" not in self.__dict__:
            return
        try:
            if sys.exc_info()[0] is None:
                for seconds in (TIMEOUT_S * 1.01, CANCEL_TIMEOUT_S * 1.01):
                    self.time_passes(seconds)
                self.revoke()
                assert all(transfer.reported for transfer in self.transfers if transfer.begun)
                assert not self.consumer._waiting
        finally:
            self.patched.stop()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=200, stateful_step_count=40)

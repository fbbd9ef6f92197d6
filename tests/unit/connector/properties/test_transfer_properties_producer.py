"""The producer's rank in any order of events: steps, layers, preemptions, aborts, registrations, cancellations, losses.

Whatever the model's groups and how the two sides split its heads: no write reads a block that is not final, was freed
or stands for other tokens, or touches a target that was answered or was not asked for; a state is that after the last
token that is moved; what an answer calls delivered is there, and of use for the next token; who asked gets an answer,
and no more answers than there were questions; every request is let go once, after its end; and when everybody has had
patience enough, nothing is left.
"""

import sys
from unittest.mock import patch

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from connector.cache.layout import left_out_tokens
from connector.control.messages import Cancel, Done, Failed
from connector.mooncake.engines import Engines
from connector.mooncake.rank_cache import RankCache
from connector.scheduling.producer_scheduler import ProducerScheduler
from connector.telling.stats import TransferStats
from connector.transfer.producer import Pace, Producer
from tests.unit.connector.fakes import CLOCKS, never_opened
from tests.unit.connector.properties.at_rest import AtRest
from tests.unit.connector.properties.simulated_cache import MOST_TOKENS, Served, served
from tests.unit.connector.properties.simulated_consumers import LIES, Engine, Mailbox, Plan, Share
from tests.unit.connector.properties.simulated_pair import Clock
from tests.unit.connector.properties.simulated_vllm import SOURCE_START, Cache, Gpu, Vllm

TRANSFERS, PATIENCE_S = 3, 10.0
MOST_REQUESTS = 4  # have room at once
plans = st.builds(
    Plan,
    tokens=st.sampled_from(range(3, MOST_TOKENS)),
    held=st.sampled_from([0, 0, 1, 2]),
    extra=st.sampled_from([0, 0, 0, 0, 0, 1]),
    same_tokens=st.sampled_from([True] * 5 + [False]),
    descending=st.booleans(),
    checksum=st.booleans(),
)
indices = st.integers(0, 5)


class AnyOrder(AtRest, RuleBasedStateMachine):
    @initialize(
        served=served(),
        plans=st.lists(plans, min_size=TRANSFERS, max_size=TRANSFERS),
        late=st.booleans(),
        ends_late=st.booleans(),
        senders=st.integers(1, 4),
        streaming=st.tuples(st.sampled_from([0, 5]), st.booleans()),
        pace=st.sampled_from([1, 3, 8]),
        first=st.lists(st.sampled_from(["a request", "a request", "a registration"]), max_size=5),
    )
    def begin(
        self,
        served: Served,
        plans: list[Plan],
        late: bool,
        ends_late: bool,
        senders: int,
        streaming: tuple[int, bool],
        pace: int,
        first: list[str],
    ) -> None:
        self.plans, self.senders = plans, senders
        min_stream_tokens, spare_launches = streaming
        self.pace = (
            pace  # so many steps forward let one thing go wrong, or every transfer would end before it has begun
        )
        self.forward, self.mishaps = 0, 0
        self.clock = Clock()
        self.clocks = [patch(module, self.clock) for module in CLOCKS]
        for clock in self.clocks:
            clock.start()
        self.num_blocks = 1 + MOST_REQUESTS * served.model.blocks_of_a_request
        layout = served.model.layout(served.rank, served.producer_ranks, SOURCE_START, self.num_blocks, served.here)
        cache, self.gpu = Cache(served.model, layout), Gpu(late, lambda: self._wait_until(self._senders_rest))
        self.shares: dict[str, Share] = {}
        self.unregistered = [share for number, plan in enumerate(plans) for share in plan.shares(number, served)]
        self.engine, self.mailbox = Engine(cache, self.shares), Mailbox(self.shares)
        self.stats = TransferStats()
        self.producer = Producer(
            engine_id="p",
            rank=0,
            cache=RankCache(layout, cache, Engines({"tcp": self.engine}, never_opened)),
            wire=self.mailbox,
            fences=self.gpu,
            pace=Pace(PATIENCE_S, float("inf"), min_stream_tokens, senders, spare_launches),
            stats=self.stats,
        )
        self.engine.changed = self.producer._progress
        scheduler = ProducerScheduler(left_out_tokens((group.kind for group in layout.groups), layout.lookahead))
        self.vllm = Vllm(self.producer, scheduler, cache, self.gpu, ends_late)
        for number, what in enumerate(first):  # else many runs would wait for a request for most of their time
            if what == "a registration" and self.unregistered:
                self.register(number)
            elif len(self.vllm.requests) < MOST_REQUESTS:
                self.new_request(number % TRANSFERS)

    def _may_go_wrong(self) -> bool:
        return self.mishaps < self.forward // self.pace

    # --- vLLM ---

    @precondition(lambda self: len(self.vllm.requests) < MOST_REQUESTS)
    @rule(number=st.integers(0, TRANSFERS - 1))
    def new_request(self, number: int) -> None:
        self.vllm.new_request(number, self.plans[number].tokens)

    @precondition(lambda self: not self.vllm.preemption and not self.vllm.chunks)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        running = self.vllm.running
        read = {write.share.number for write in self.engine.in_flight}
        likely = [r for r in running if r.number in read or self.gpu.queue]
        preempted = [
            r for r in running if r.num_computed_tokens and data.draw(st.integers(0, 1 if r in likely else 5)) == 1
        ]
        computing = [
            (r, data.draw(st.sampled_from([0, 0, 1, 2])), data.draw(st.sampled_from([0, 1, 3, 4, 6, 9])))
            for r in running
            if r not in preempted
        ]
        self.vllm.begin_step(preempted, [(request, hit, tokens) for request, hit, tokens in computing if tokens])
        self._quiet()

    @precondition(lambda self: not self.vllm.preemption and self.vllm.chunks)
    @rule(hook=st.booleans())
    def layer(self, hook: bool) -> None:
        self.forward += 1
        self.vllm.compute_layer(hook)
        self._quiet()

    @precondition(lambda self: not self.vllm.preemption and self.gpu.queue)
    @rule(count=st.integers(1, 4))
    def gpu_advances(self, count: int) -> None:
        self.gpu.advance(count)
        self._quiet()

    @precondition(lambda self: self._may_go_wrong() and self.vllm.running)
    @rule(index=indices)
    def abort(self, index: int) -> None:
        self.mishaps += 1
        self.vllm.end_request(self.vllm.running[index % len(self.vllm.running)])

    # --- consumers ---

    @precondition(lambda self: self.unregistered)
    @rule(index=indices)
    def register(self, index: int) -> None:
        share = self.unregistered.pop(index % len(self.unregistered))
        asked = share.registration
        self.shares[asked.segments["tcp"]] = share
        self.producer.on_message(asked)
        self._quiet()

    @precondition(lambda self: self._may_go_wrong() and self._reachable())
    @rule(index=indices)
    def register_again(self, index: int) -> None:
        self.mishaps += 1
        share = self._reachable()[index % len(self._reachable())]
        share.asked += 1
        self.producer.on_message(share.registration)
        self._quiet()

    @precondition(lambda self: self._may_go_wrong() and self.unregistered)
    @rule(index=indices, lie=st.sampled_from(sorted(LIES)))
    def register_wrongly(self, index: int, lie: str) -> None:
        self.mishaps += 1
        asked = self.unregistered[index % len(self.unregistered)].registration
        told = {"reply_to": "tcp://impostor:1", "segments": {"tcp": "impostor"}} | LIES[lie](asked)
        before = len(self.mailbox.others)
        self.producer.on_message(msgspec.structs.replace(asked, **told))
        (answer,) = self.mailbox.others[before:]
        assert isinstance(answer, Failed)
        assert answer.delivered_blocks == 0
        self._quiet()

    @precondition(lambda self: self._may_go_wrong() and self._reachable())
    @rule(index=indices)
    def cancel(self, index: int) -> None:
        self.mishaps += 1
        share = self._reachable()[index % len(self._reachable())]
        share.asked += 1
        for other in self.shares.values():  # one rank's word ends the whole transfer
            other.unwanted = other.unwanted or other.number == share.number
        self.producer.on_message(Cancel(share.registration.transfer_id, share.registration.reply_to))
        self._quiet()

    @precondition(lambda self: self._may_go_wrong() and self.unregistered)
    @rule(index=indices)
    def cancel_before_the_registration(self, index: int) -> None:
        self.mishaps += 1
        asked = self.unregistered[index % len(self.unregistered)].registration
        self.producer.on_message(Cancel(asked.transfer_id, asked.reply_to))
        self._quiet()

    @precondition(lambda self: self._may_go_wrong() and self._reachable())
    @rule(index=indices, gone=st.booleans())
    def lose_peer(self, index: int, gone: bool) -> None:
        self.mishaps += 1
        share = self._reachable()[index % len(self._reachable())]
        share.gone, share.unwanted = gone, True
        self.producer.on_peer_lost(share.registration.reply_to, gone)
        self._quiet()

    def _reachable(self) -> list[Share]:
        return [share for share in self.shares.values() if not share.gone]

    # --- the network, and time ---

    @precondition(lambda self: self.engine.in_flight)
    @rule(index=indices, lost=st.sampled_from([False, False, False, False, True]))
    def write_returns(self, index: int, lost: bool) -> None:
        self.forward += 1
        writes = sorted(self.engine.in_flight, key=lambda write: write.share.registration.reply_to)
        self.engine.end(writes[index % len(writes)], lost)
        self._quiet()

    @precondition(lambda self: self._may_go_wrong())
    @rule()
    def patience_ends(self) -> None:
        self.mishaps += 1
        self._wait_for_long()

    def _wait_for_long(self) -> None:
        for _ in range(11):  # a longer pause would be a standstill, during which nobody loses patience
            self.clock.now += PATIENCE_S / 10
            self.producer.on_tick()
        self._quiet()

    # --- the end ---

    def teardown(self) -> None:
        if "vllm" not in self.__dict__:
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
        for number in set(range(TRANSFERS)) - {request.number for request in self.vllm.requests}:
            if len(self.vllm.requests) < MOST_REQUESTS:
                self.new_request(number)
        for _ in range(20):
            while self.engine.in_flight:
                self.write_returns(0, lost=False)
            self.gpu.drain()
            self._quiet()
            if self.vllm.chunks:
                self.layer(hook=False)
            elif self.vllm.scheduler._released or self.vllm.running:
                self.vllm.begin_step([], [(request, 0, MOST_TOKENS) for request in self.vllm.running])
            elif self.producer._transfers.all() or not self.vllm.all_let_go:
                self._wait_for_long()
                self.vllm.begin_step([], [])

    def _assert_nothing_is_left(self) -> None:
        assert not self.producer._transfers.all()
        assert self.vllm.all_let_go
        assert sorted(self.vllm.free) == list(range(1, self.num_blocks))
        assert self.vllm.scheduler.held.blocks == 0
        delivered = 0
        for share in self.shares.values():
            assert share.answers or share.gone
            if share.answers:
                share.assert_right()
                delivered += isinstance(share.answers[0], Done) and share.size > 0
        counted = (self.stats.take() or {"counted": []})["counted"]
        totals = {
            name: sum(row[-1] for row in counted if row[0] == name) for name in ("sent_bytes", "delivered_shares")
        }
        assert totals == {"sent_bytes": self.engine.bytes_landed, "delivered_shares": delivered}


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=160, stateful_step_count=60)

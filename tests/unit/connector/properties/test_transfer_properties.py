"""One prompt and several consumers' shares of it, in any order of events, with a memory behind every block.

Whatever happens: a block is handed out once, complete and not before; what is called delivered has arrived as it was
computed; nothing is handed out after the end; and every share comes to an end.
"""

from dataclasses import dataclass, field

from connector.transfer.transfer import End, Prompt, Share
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from connector.control.messages import Register

BLOCK = 4
SHARES = 3
Place = tuple[int, int]  # layer, block of the prompt


def registration(rank: int, first_block: int, blocks: int) -> Register:
    return Register(
        transfer_id="t",
        engine_id="e",
        fingerprint="f",
        reply_to=f"tcp://d{rank}:1",
        rank=rank,
        shares=SHARES,
        segments={"tcp": f"segment{rank}"},
        host_identity="",
        layer_addresses=[],
        block_stride=8,
        first_head=0,
        heads=1,
        first_block=first_block,
        block_ids=list(range(blocks)),
    )


@dataclass
class Consumer:
    """One rank's side of a share: where its bytes arrive. A write's copy is made when it returns."""

    share: Share
    first_block: int
    fits: bool  # its prompt has the right length
    handed: set[Place] = field(default_factory=set)
    in_flight: dict[Place, int] = field(default_factory=dict)  # to the block of ours that is being read
    memory: dict[Place, int] = field(default_factory=dict)
    end: End | None = None  # what the events so far must lead to


class Interleaving(RuleBasedStateMachine):
    """The memory holds, for each of our blocks and each layer, how many tokens of the prompt are in it."""

    @initialize(tokens=st.integers(1, 30), layers=st.integers(1, 3))
    def begin(self, tokens: int, layers: int) -> None:
        self.tokens, self.layers = tokens, layers
        self.blocks = -(-tokens // BLOCK)
        self.prompt = Prompt(layers, BLOCK)
        self.consumers: dict[int, Consumer] = {}
        self.free = list(range(2 * self.blocks))
        self.table: list[int] = []
        self.memory: dict[Place, int] = {}
        self.scheduled = 0  # the step under way, or the last, computes up to here
        self.to_compute: list[int] = []  # layers that the step under way has not come to

    # --- the prefill ---

    @precondition(lambda self: not self.to_compute)
    @rule(tokens=st.integers(1, 12))
    def schedule(self, tokens: int) -> None:
        self.scheduled = min(self.scheduled + tokens, self.tokens)
        while len(self.table) * BLOCK < self.scheduled:
            self.table.append(self.free.pop(0))
        self.prompt.schedule(self.tokens, list(self.table))
        for consumer in self.consumers.values():
            consumer.share.check()
            self._expect(consumer)
        self.to_compute = list(range(self.layers))

    @precondition(lambda self: self.to_compute)
    @rule(hook=st.booleans())
    def compute_a_layer(self, hook: bool) -> None:
        """vLLM may compute a layer without calling its hook; the end of the step then speaks for all layers."""
        layer = self.to_compute.pop(0)
        for block, block_id in enumerate(self.table):
            self.memory[layer, block_id] = min(BLOCK, max(0, self.scheduled - block * BLOCK))
        if hook:
            self.prompt.computed(layer, self.scheduled)
        if not self.to_compute:
            for layer in range(self.layers):
                self.prompt.computed(layer, self.scheduled)

    @precondition(lambda self: not self.to_compute and not any(c.in_flight for c in self.consumers.values()))
    @rule()
    def preempt(self) -> None:
        """Another request takes the blocks and writes into them. The producer has waited for every write before."""
        self.prompt.forget_blocks()
        for layer in range(self.layers):
            for block_id in self.table:
                self.memory[layer, block_id] = -1
        self.free = [*self.table, *self.free]
        self.table, self.scheduled = [], 0

    # --- consumers ---

    @precondition(lambda self: len(self.consumers) < SHARES)
    @rule(data=st.data(), extra=st.sampled_from([0, 0, 0, 0, 1, -1]))
    def register(self, data: st.DataObject, extra: int) -> None:
        rank = len(self.consumers)
        first = data.draw(st.integers(0, self.blocks - 1))
        asked = registration(rank, first, self.blocks - first + extra)
        self.consumers[rank] = Consumer(Share(self.prompt, asked), first, fits=extra == 0)
        self._expect(self.consumers[rank])

    @rule(rank=st.integers(0, SHARES - 1), how=st.sampled_from([End.CANCELLED, End.FAILED]))
    def give_up(self, rank: int, how: End) -> None:
        consumer = self.consumers.get(rank)
        if consumer is not None and consumer.handed:  # else most runs would end before anything moved
            consumer.share.end(how, f"{how.value}: x")
            consumer.end = consumer.end or how

    def _expect(self, consumer: Consumer) -> None:
        if not consumer.fits and self.prompt.tokens is not None:
            consumer.end = consumer.end or End.FAILED

    # --- the sender ---

    @rule(rank=st.integers(0, SHARES - 1))
    def take(self, rank: int) -> None:
        consumer = self.consumers.get(rank)
        if consumer is None or consumer.in_flight or not consumer.share.has_work():
            return
        for run in consumer.share.take():
            for block in range(run.start, run.stop):
                place = (run.layer, block)
                assert place not in consumer.handed, "handed out twice"
                consumer.handed.add(place)
                consumer.in_flight[place] = self.prompt.block_ids[block]
        assert consumer.in_flight, "there was work"
        assert consumer.end is None
        self._assert_complete(consumer)

    @rule(rank=st.integers(0, SHARES - 1))
    def land(self, rank: int) -> None:
        consumer = self.consumers.get(rank)
        if consumer is None or not consumer.in_flight:
            return
        self._assert_complete(consumer)
        for layer, block in consumer.in_flight:
            consumer.memory[layer, block] = self.memory[layer, consumer.in_flight[layer, block]]
        consumer.in_flight = {}
        consumer.share.landed()
        if len(consumer.memory) == self.layers * (self.blocks - consumer.first_block):
            consumer.end = consumer.end or End.DONE

    @rule(rank=st.integers(0, SHARES - 1))
    def lose(self, rank: int) -> None:
        consumer = self.consumers.get(rank)
        if consumer is None or not consumer.in_flight:
            return
        consumer.in_flight = {}
        consumer.share.lost("write failed: x", unended=False)
        consumer.end = consumer.end or End.FAILED

    def _assert_complete(self, consumer: Consumer) -> None:
        """Nobody will ever write into what is being read."""
        for (layer, block), block_id in consumer.in_flight.items():
            assert self.memory[layer, block_id] == self._whole(block), f"layer {layer}, block {block}"

    def _whole(self, block: int) -> int:
        return min(BLOCK, self.tokens - block * BLOCK)

    # --- at any time ---

    @invariant()
    def every_share_is_where_its_events_have_led_it(self) -> None:
        for consumer in self.__dict__.get("consumers", {}).values():
            share = consumer.share
            assert (share.ending and share.ending[0]) == consumer.end
            assert share.settled == (consumer.end is not None and not consumer.in_flight)
            assert not (share.has_work() and consumer.end is not None)

    @invariant()
    def what_is_called_delivered_has_arrived(self) -> None:
        for consumer in self.__dict__.get("consumers", {}).values():
            delivered = consumer.share.delivered_blocks
            if consumer.end is End.DONE:
                assert delivered == self.blocks - consumer.first_block
            for block in range(consumer.first_block, consumer.first_block + delivered):
                for layer in range(self.layers):
                    assert consumer.memory[layer, block] == self._whole(block)

    @invariant()
    def nothing_final_waits_without_being_work(self) -> None:
        for consumer in self.__dict__.get("consumers", {}).values():
            if consumer.end is None and not consumer.in_flight:
                computed = self.prompt.final_blocks(0)
                waiting = any((0, block) not in consumer.handed for block in range(consumer.first_block, computed))
                assert consumer.share.has_work() or not waiting

    def teardown(self) -> None:
        """The prefill goes on to its end and every write returns: then every share has ended."""
        if not hasattr(self, "consumers"):
            return
        while self.scheduled < self.tokens or self.to_compute:
            if not self.to_compute:
                self.schedule(BLOCK)
            self.compute_a_layer(hook=False)
        for rank, consumer in self.consumers.items():
            self.land(rank)
            self.take(rank)
            self.land(rank)
            assert consumer.share.settled
        self.every_share_is_where_its_events_have_led_it()
        self.what_is_called_delivered_has_arrived()


TestInterleaving = Interleaving.TestCase
TestInterleaving.settings = settings(max_examples=300, stateful_step_count=60)

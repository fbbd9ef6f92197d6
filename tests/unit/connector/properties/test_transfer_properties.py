"""One prompt and several consumers' shares of it, in any order of events, with a memory behind every block.

Whatever happens, in groups of every kind: a block is handed out once, final and not before, from the table of its own
group and never the null block; a state is handed out as it is after the last token; what is called delivered has
arrived as it was computed; nothing is handed out after the end; and every share comes to an end.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from connector.cache.layout import NULL_BLOCK, Kind
from connector.control.messages import GroupBlocks, LayerPlace, Register
from connector.transfer.prompt import Prompt
from connector.transfer.share import End, Share
from tests.unit.connector.properties.simulated_cache import MOST_TOKENS, Group, Model, Packing, Tables, lacking, models

SHARES = 3
indices = st.integers(0, SHARES - 1)
Wanted = tuple[int, int]  # layer, position
Content = tuple[int, int]  # position, tokens in it; of a state all before it


def registration(rank: int, tokens: int, groups: list[GroupBlocks], layers: list[int]) -> Register:
    return Register(
        transfer_id="t",
        engine_id="e",
        fingerprint="f",
        reply_to=f"tcp://d{rank}:1",
        rank=rank,
        shares=SHARES,
        segments={"tcp": f"segment{rank}"},
        host_identity="",
        tokens=tokens,
        groups=groups,
        layers=[LayerPlace(f"l{layer}", 0, 8, 0, 1) for layer in layers],
    )


@dataclass
class Consumer:
    """One rank's side of a share. A write's copy is made when it returns."""

    share: Share
    wanted: set[Wanted]
    fits: bool  # its prompt has the right length
    greedy: bool  # it asks for a position that is not kept
    handed: set[Wanted] = field(default_factory=set)
    in_flight: dict[Wanted, int] = field(default_factory=dict)  # to the block of ours that is being read
    memory: dict[Wanted, Content] = field(default_factory=dict)
    end: End | None = None  # what the events so far must lead to


class Interleaving(RuleBasedStateMachine):
    """The memory holds, for each of our blocks and each layer, which position is in it and how many tokens of that."""

    @initialize(model=models(unsplit=True), tokens=st.sampled_from(range(1, MOST_TOKENS)), data=st.data())
    def begin(self, model: Model, tokens: int, data: st.DataObject) -> None:
        self.model, self.tokens = model, tokens
        self.layout = model.layout(0, 1, 0, 2 * model.blocks_of_a_request + 1, Packing(False, False, 0))
        self.layers = len(model.layers)
        self.prompt = Prompt(self.layout)
        self.consumers: dict[int, Consumer] = {}
        self.free = list(range(1, self.layout.num_blocks))
        self.tables = Tables(model, self.free)
        self.memory: dict[tuple[int, int], Content] = {}
        self.computed, self.scheduled = 0, 0  # the step under way computes up to the second; else they are the same
        self.to_compute: list[int] = []  # layers that the step under way has not come to
        for _ in range(data.draw(st.sampled_from([0, 1, 2, 2]))):  # else most runs would be over before one comes
            self.register(data, 0, greedy=False)

    # --- the prefill ---

    @precondition(lambda self: not self.to_compute)
    @rule(tokens=st.integers(1, 12))
    def schedule(self, tokens: int) -> None:
        self._recycle(self.tables.skip(self.scheduled))
        self.scheduled = min(self.scheduled + tokens, self.tokens)
        self.tables.allocate(self.scheduled)
        self.prompt.schedule(self.tokens, tuple(list(table) for table in self.tables.tables))
        for consumer in self.consumers.values():
            consumer.share.check()
            self._expect(consumer)
        self.to_compute = list(range(self.layers))

    @precondition(lambda self: self.to_compute)
    @rule(layers=st.sampled_from([1, 2, 9, 9]), hook=st.booleans())
    def compute(self, layers: int, hook: bool) -> None:
        for _ in range(min(layers, len(self.to_compute))):
            self._compute(self.to_compute.pop(0), hook)

    def _compute(self, layer: int, hook: bool) -> None:
        """vLLM may compute a layer without calling its hook; the end of the step then speaks for all layers."""
        group = self._group(layer)
        last = group.blocks(self.scheduled) - 1
        first = last if group.kind is Kind.STATE else self.computed // group.block_tokens
        for position in range(first, last + 1):
            block = self.tables.tables[self.model.layers[layer].group][position]
            self.memory[layer, block] = position, group.filled(position, self.scheduled)
        if hook:
            self.prompt.computed(layer, self.scheduled)
        if not self.to_compute:
            self.computed = self.scheduled
            for layer in range(self.layers):
                self.prompt.computed(layer, self.scheduled)
        if self.prompt.complete:
            for consumer in self.consumers.values():  # all that one wants may have arrived before
                consumer.share.check()
                self._expect(consumer)

    @precondition(lambda self: self.scheduled and not self.to_compute and not self._with(lambda c: c.in_flight))
    @rule()
    def preempt(self) -> None:
        """Another request takes the blocks and writes into them. The producer has waited for every write before."""
        self.prompt.forget_blocks()
        self._recycle(self.tables.drop())
        self.computed = self.scheduled = 0

    def _recycle(self, blocks: list[int]) -> None:
        for layer in range(self.layers):
            for block in blocks:
                self.memory.pop((layer, block), None)

    # --- consumers ---

    @precondition(lambda self: len(self.consumers) < SHARES)
    @rule(data=st.data(), extra=st.sampled_from([0, 0, 0, 0, 1, -1]), greedy=st.sampled_from([False] * 4 + [True]))
    def register(self, data: st.DataObject, extra: int, greedy: bool) -> None:
        """Of the prompt it may hold the beginning; some layers are others' to send. A greedy one asks for what is
        below its window, as two sides would that do not agree on what is kept."""
        rank, tokens = len(self.consumers), max(1, self.tokens + extra)
        held = data.draw(st.integers(0, (tokens - 1) // self.model.alignment)) * self.model.alignment
        room = Tables(self.model, list(range(1, 1 + self.model.blocks_of_a_request)))
        room.load(held)
        room.load(tokens)
        groups = [
            GroupBlocks(*group.wanted(table, tokens, held))
            for group, table in zip(self.layout.groups, room.tables, strict=True)
        ]
        missing = [number for number, group in enumerate(groups) if group.first > 0]
        greedy = greedy and tokens == self.tokens and bool(missing)
        if greedy:
            number = data.draw(st.sampled_from(missing))
            groups[number] = GroupBlocks(0, [*range(100, 100 + groups[number].first), *groups[number].block_ids])
        every = set(range(self.layers))
        asked = data.draw(st.just(every) | st.just(every) | st.sets(st.sampled_from(sorted(every))))
        wanted = {
            (layer, position)
            for layer in asked
            for (number, position), _ in lacking(self.model, room.tables, held, tokens)
            if number == self.model.layers[layer].group
        }
        share = Share(self.prompt, registration(rank, tokens, groups, sorted(asked)))
        self.consumers[rank] = Consumer(share, wanted, tokens == self.tokens, greedy)
        self._expect(self.consumers[rank])

    @precondition(lambda self: self._with(lambda consumer: consumer.handed))
    @rule(index=indices, how=st.sampled_from([End.CANCELLED, End.FAILED]))
    def give_up(self, index: int, how: End) -> None:
        """Once something has moved, else most runs would end before."""
        consumers = self._with(lambda consumer: consumer.handed)
        consumer = consumers[index % len(consumers)]
        consumer.share.end(how, f"{how.value}: x")
        consumer.end = consumer.end or how

    def _with(self, condition: Callable[[Consumer], object]) -> list[Consumer]:
        return [consumer for consumer in self.consumers.values() if condition(consumer)]

    def _at_rest_with_work(self) -> list[Consumer]:
        return self._with(lambda consumer: consumer.share.has_work() and not consumer.in_flight)

    def _expect(self, consumer: Consumer) -> None:
        if not consumer.fits and self.prompt.tokens is not None:
            consumer.end = consumer.end or End.FAILED
        arrived = consumer.memory.keys() == consumer.wanted and not consumer.in_flight
        if consumer.greedy:
            consumer.end = consumer.share.ending and consumer.share.ending[0]
        elif arrived and self.prompt.complete:
            consumer.end = consumer.end or End.DONE

    # --- the sender ---

    @precondition(lambda self: self._at_rest_with_work())
    @rule(index=indices)
    def take(self, index: int) -> None:
        consumers = self._at_rest_with_work()
        self._take(consumers[index % len(consumers)])

    def _take(self, consumer: Consumer) -> None:
        assert consumer.end is None
        for run in consumer.share.take():
            table = self.prompt.block_ids[self.model.layers[run.layer].group]
            for position in range(run.start, run.stop):
                wanted = (run.layer, position)
                assert wanted not in consumer.handed, "handed out twice"
                assert table[position] != NULL_BLOCK
                consumer.handed.add(wanted)
                consumer.in_flight[wanted] = table[position]
        if not consumer.in_flight:
            assert consumer.greedy, "there was work"
            consumer.end = End.FAILED
        self._assert_final(consumer)

    @precondition(lambda self: self._with(lambda consumer: consumer.in_flight))
    @rule(index=indices, lost=st.sampled_from([False] * 5 + [True]))
    def write_returns(self, index: int, lost: bool) -> None:
        consumers = self._with(lambda consumer: consumer.in_flight)
        consumer = consumers[index % len(consumers)]
        if not lost:
            self._land(consumer)
            return
        consumer.in_flight = {}
        consumer.share.lost("write failed: x", unended=False)
        consumer.end = consumer.end or End.FAILED

    def _land(self, consumer: Consumer) -> None:
        self._assert_final(consumer)
        for (layer, position), block in consumer.in_flight.items():
            if (layer, position) in consumer.wanted:
                consumer.memory[layer, position] = self.memory[layer, block]
        consumer.in_flight = {}
        consumer.share.landed()
        self._expect(consumer)

    def _assert_final(self, consumer: Consumer) -> None:
        """Nobody will ever write into what is being read."""
        for (layer, position), block in consumer.in_flight.items():
            if (layer, position) in consumer.wanted:
                assert self.memory[layer, block] == self._final(layer, position), f"layer {layer}, position {position}"
            else:
                assert consumer.greedy

    def _final(self, layer: int, position: int) -> Content:
        return position, self._group(layer).filled(position, self.tokens)

    def _group(self, layer: int) -> Group:
        return self.model.groups[self.model.layers[layer].group]

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
            if consumer.greedy:
                continue
            first, delivered = consumer.share.registration.groups[0].first, consumer.share.delivered_blocks
            assert 0 <= delivered <= len(consumer.share.registration.groups[0].block_ids)
            for layer, position in consumer.wanted:
                of_the_first = self.model.layers[layer].group == 0
                if consumer.end is End.DONE or (of_the_first and position < first + delivered):
                    assert consumer.memory[layer, position] == self._final(layer, position)

    @invariant()
    def nothing_final_waits_without_being_work(self) -> None:
        for consumer in self.__dict__.get("consumers", {}).values():
            if consumer.end is None and not consumer.in_flight:
                waiting = any(self._is_final(*wanted) for wanted in consumer.wanted - consumer.handed)
                assert consumer.share.has_work() or not waiting

    def _is_final(self, layer: int, position: int) -> bool:
        """Whether a step that is over has computed all of it."""
        group = self._group(layer)
        end = self.tokens if group.kind is Kind.STATE else min(self.tokens, (position + 1) * group.block_tokens)
        return self.computed >= end

    def teardown(self) -> None:
        """The prefill goes on to its end and every write returns: then every share has ended."""
        if not hasattr(self, "consumers"):
            return
        while self.scheduled < self.tokens or self.to_compute:
            if not self.to_compute:
                self.schedule(4)
            self.compute(9, hook=False)
        for consumer in self.consumers.values():
            while consumer.in_flight or consumer.share.has_work():
                if consumer.in_flight:
                    self._land(consumer)
                else:
                    self._take(consumer)
            assert consumer.share.settled
        self.every_share_is_where_its_events_have_led_it()
        self.what_is_called_delivered_has_arrived()


TestInterleaving = Interleaving.TestCase
TestInterleaving.settings = settings(max_examples=200, stateful_step_count=60)

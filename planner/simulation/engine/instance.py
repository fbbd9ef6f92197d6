"""One vLLM instance: in each step a token for every answer under way, and of prompts what then fits.

It follows vLLM's scheduler (v1/core/sched/scheduler.py, `schedule`): prompts that have begun go on in their order, then
those that wait begin, by priority and then in the order in which they came, while there is room in the step, in the
number of sequences, and in the KV cache for the whole prompt. Where an answer's next token finds no block, whoever was
admitted last (with priorities: the last in order) loses its blocks and is computed again later.

Steps in which answers alone go on, and none of them ends, differ only in the growing context. Such a run of steps is
one event; what comes meanwhile cuts it at the end of the step in which it comes.
"""

from collections.abc import Callable
from itertools import count

from planner.simulation.clock import Clock
from planner.simulation.costs import pairs
from planner.simulation.engine.decoding import Decoding
from planner.simulation.engine.kv_pool import KvPool
from planner.simulation.engine.queues import Queues
from planner.simulation.engine.sequence import Sequence
from planner.simulation.engine.steps import Steps
from planner.simulation.machine import Machine
from planner.simulation.server import Server
from planner.trace import BLOCK_TOKENS

LONGEST_RUN = 1024  # steps in one event


class Instance:
    """computed: tokens of prompts."""

    def __init__(self, clock: Clock, server: Server, machine: Machine) -> None:
        self.steps = Steps(clock, self._end)
        self.computed = 0
        self.preemptions = 0
        self.pool = KvPool(server.kv_tokens, server.block_tokens)
        self._clock = clock
        self._costs = server.costs
        self._scheduling = server.scheduling
        self._pace = server.pace
        self._machine = machine
        self._numbers = count()
        self._queues = Queues()
        self._prefilling: list[Sequence] = []
        self._awaited = 0  # whose KV cache comes, and has its place here
        self._decoding = Decoding(server.block_tokens)
        self._idle = True
        self._prompts = 0.0  # the part of the step under way that is for them
        self._chunks: dict[Sequence, int] = {}
        self._firsts: list[Sequence] = []

    def change_pace(self) -> None:
        """Others of the machine have begun to compute, or to rest."""
        if self._pace.is_shared:
            self.steps.change_pace(self._machine.slower(self, self._pace, self._prompts))

    @property
    def computes(self) -> bool:
        return not self._idle

    @property
    def is_crowded(self) -> bool:
        """Another one of the machine computes."""
        return self._machine.is_busy_beside(self)

    def submit(self, sequence: Sequence) -> None:
        tokens = sequence.prompt.tokens + sequence.output_tokens
        if self.pool.blocks_of(tokens) > self.pool.capacity:
            most = self.pool.capacity * self.pool.block_tokens
            raise ValueError(f"a request of {tokens} tokens, prompt and answer: expected at most {most}")
        sequence.number = next(self._numbers)
        self._come(sequence)

    def arrived(self, sequence: Sequence) -> None:
        """The KV cache of a remote one is here."""
        self._awaited -= 1
        sequence.computed = sequence.target - 1
        whole = min(len(sequence.prompt.blocks), sequence.computed // BLOCK_TOKENS)
        before = self.pool.private_blocks(sequence.prompt.tokens, sequence.shared)
        after = self.pool.private_blocks(sequence.computed, whole)
        self.pool.take(sequence.prompt.blocks[sequence.shared : whole], after - before)
        sequence.shared = whole
        if sequence.made == sequence.output_tokens:
            self._free(sequence)
            _call(sequence.on_end)
            self._touch()
        else:
            sequence.has_come = True
            self._come(sequence)

    def release(self, sequence: Sequence) -> None:
        """Of one that has kept its blocks at its end."""
        self._free(sequence)
        self._touch()

    def _come(self, sequence: Sequence) -> None:
        self._cut()
        self._queues.come(sequence, len(self.steps) + self._scheduling.steps_ahead)
        if self._idle:
            self._touch()

    def _touch(self) -> None:
        """Something has changed that the next step has to see."""
        if self._idle:
            self._idle = False
            self._step()
        else:
            self._cut()

    def _cut(self) -> None:
        """The run ends with the step that is under way; what the others would have needed is free."""
        planned, first = self.steps.planned, self.steps.first
        if planned > 1:
            self.steps.cut()
            growth = self._decoding.growth
            self.pool.take((), growth(first, self.steps.planned) - growth(first, planned))

    def _step(self) -> None:
        number = len(self.steps)
        self._queues.admit(number, nothing_runs=not self._decoding and not self._prefilling)
        ready, joining_s = self._queues.ready, 0.0
        while ready and self._has_place():
            joining_s += self._join(ready.popleft())
        preempted = False
        while self._decoding and self._decoding.growth(number, 1) > self.pool.available:
            preempted |= bool(self._preempt())
        self.pool.take((), self._decoding.growth(number, 1))
        room = self._continue_prompts(self._scheduling.step_tokens - len(self._decoding))
        if room is not None and not preempted:
            self._begin_prompts(room)
        if not self._decoding and not self._chunks:
            self._idle = not preempted and room is not None and not ready
            if self._idle:
                self._machine.rests(self, awaits=self._awaited > 0)
            else:
                self._step()  # what was preempted has made room
            return
        self._machine.computes(self, prompts=bool(self._chunks))
        steps, sequences = 1, len(self._decoding)
        # Whoever shares the machine may begin or end meanwhile.
        if not (self._chunks or self._firsts or preempted or joining_s or self._pace.is_shared):
            steps = self._undisturbed()
            self.pool.take((), self._decoding.growth(number, steps) - self._decoding.growth(number, 1))
        prompt_pairs = sum(pairs(sequence.computed, tokens) for sequence, tokens in self._chunks.items())
        answers_s = self._costs.of_answers(sequences, self._decoding.context) + joining_s
        tokens = sum(self._chunks.values())
        alone_s = self._costs.of_step(answers_s, self._costs.of_prompts(tokens, prompt_pairs), sequences + tokens)
        self._prompts = (alone_s - answers_s) / alone_s if tokens else 0.0
        slower = self._machine.slower(self, self._pace, self._prompts)
        lasts_s = alone_s * slower
        longer_s = self._costs.context_token_s * sequences * slower
        by_chance_s = enumerate(self._machine.by_chance(self._pace, steps))
        self.steps.begin((max(0.0, lasts_s + step * longer_s + more_s) for step, more_s in by_chance_s), slower)

    def _continue_prompts(self, room: int) -> int | None:
        """Tokens of the step that are left; None: a prompt has been preempted, and so none is begun."""
        most, preempted = self._most_of_one(), False
        for sequence in tuple(self._prefilling):
            tokens = min(sequence.target - sequence.computed, most, room)
            if tokens <= 0 or sequence not in self._prefilling:
                continue
            while not self._allocate(sequence, tokens):
                preempted, victim = True, self._preempt()
                room += self._chunks.pop(victim, 0)
                if victim is sequence:
                    break
            else:
                self._chunks[sequence] = tokens
                room -= tokens
        return None if preempted else room

    def _begin_prompts(self, room: int) -> None:
        most = self._most_of_one()
        while self._queues.waiting and room > 0 and self._has_place():
            sequence = self._queues.first()
            prompt = sequence.prompt
            computed = prompt.tokens - prompt.missing(self.pool.matched(prompt.blocks))
            shared = min(len(prompt.blocks), computed // BLOCK_TOKENS)
            if not self.pool.fits(prompt.blocks, shared, sequence.target):
                return
            self._queues.begin_first()
            sequence.computed, sequence.shared = computed, shared
            held = prompt.tokens if sequence.remote else computed
            self.pool.take(prompt.blocks[:shared], self.pool.private_blocks(held, shared))
            if sequence.remote:
                self._awaited += 1
                if sequence.on_room:
                    sequence.on_room(computed)
                continue
            if sequence.on_computed and sequence.computed:
                sequence.on_computed(self._clock.now, 0, sequence.computed)
            tokens = min(sequence.target - sequence.computed, most, room)
            self._allocate(sequence, tokens)
            self._prefilling.append(sequence)
            self._chunks[sequence] = tokens
            room -= tokens

    def _end(self, steps: int) -> None:
        self._decoding.advance(steps)
        firsts, self._firsts = self._firsts, []
        for sequence in firsts:
            _call(sequence.on_first)
        chunks, self._chunks = self._chunks, {}
        for sequence in self._decoding.ended(len(self.steps)):
            self._finish(sequence)
        for sequence, tokens in chunks.items():
            self._has_computed(sequence, tokens)
        self._step()

    def _has_computed(self, sequence: Sequence, tokens: int) -> None:
        begin = sequence.computed
        sequence.computed += tokens
        sequence.missed += tokens
        self.computed += tokens
        if sequence.on_computed:
            sequence.on_computed(self.steps.began, begin, sequence.computed)
        if sequence.computed < sequence.target:
            return
        self._prefilling.remove(sequence)
        sequence.made += 1
        sequence.stretches.append([len(self.steps) - 1, len(self.steps)])
        if sequence.made == 1:
            _call(sequence.on_first)
        if sequence.made == sequence.output_tokens:
            self._finish(sequence)
        else:
            self._decoding.add(sequence, len(self.steps))

    def _join(self, sequence: Sequence) -> float:
        """One whose KV cache has come from elsewhere makes its next token in this step, which takes so much longer."""
        sequence.stretches.append([len(self.steps), len(self.steps)])
        if sequence.made == 0:
            self._firsts.append(sequence)
        self._decoding.add(sequence, len(self.steps))
        return self._costs.join_s + self._costs.join_token_s * sequence.computed

    def _finish(self, sequence: Sequence) -> None:
        if not sequence.keeps_blocks:
            self._free(sequence)
        _call(sequence.on_end)

    def _preempt(self) -> Sequence:
        """The one that was admitted last; its prompt, and what it has made so far, is computed again."""
        if self._prefilling:
            victim = max(self._prefilling, key=lambda each: (each.priority, each.number))
            self._prefilling.remove(victim)
        else:
            victim = self._decoding.last()
            self._decoding.remove(victim, len(self.steps))
            if victim in self._firsts:
                self._firsts.remove(victim)
        self._free(victim)
        victim.computed = victim.shared = 0
        victim.remote = False
        victim.preemptions += 1
        self.preemptions += 1
        self._queues.wait(victim)
        return victim

    def _allocate(self, sequence: Sequence, tokens: int) -> bool:
        """Blocks for so many more tokens of its prompt, if they are there."""
        pool, after = self.pool, sequence.computed + tokens
        if pool.blocks_of(after) - pool.blocks_of(sequence.computed) > pool.available:
            return False
        before = pool.private_blocks(sequence.computed, sequence.shared)
        whole = min(len(sequence.prompt.blocks), after // BLOCK_TOKENS)
        pool.take(sequence.prompt.blocks[sequence.shared : whole], pool.private_blocks(after, whole) - before)
        sequence.shared = whole
        return True

    def _free(self, sequence: Sequence) -> None:
        chunk = self._chunks.get(sequence, 0)
        private = self.pool.private_blocks(sequence.computed + chunk, sequence.shared)
        self.pool.free(sequence.prompt.blocks[: sequence.shared], private)

    def _has_place(self) -> bool:
        return len(self._decoding) + len(self._prefilling) < self._scheduling.max_sequences

    def _most_of_one(self) -> int:
        """Tokens of one prompt in one step."""
        scheduling = self._scheduling
        others = len(self._decoding) + len(self._prefilling) + self._queues.waiting
        if not scheduling.long_prefill_threshold or others <= 1:
            return scheduling.step_tokens
        share = scheduling.step_tokens // others if scheduling.adaptive_threshold else 0
        return max(scheduling.long_prefill_threshold, share)

    def _undisturbed(self) -> int:
        """Steps in which nothing but answers goes on, and none ends."""
        number = len(self.steps)
        steps = min(self._decoding.next_end() - number, LONGEST_RUN)
        coming = self._queues.steps_before_next(number)
        if coming is not None:
            steps = min(steps, coming)
        # One step's growth is there, and reserved.
        spare = self.pool.available + self._decoding.growth(number, 1)
        while steps > 1 and self._decoding.growth(number, steps) > spare:
            steps //= 2
        return steps


def _call(happen: Callable[[], None] | None) -> None:
    if happen:
        happen()

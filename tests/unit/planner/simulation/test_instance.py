"""One instance on paper: what it computes in which step, and who waits for whom."""

from dataclasses import replace

import pytest

from planner.simulation.clock import Clock
from planner.simulation.costs import StepCosts
from planner.simulation.engine import instance as module
from planner.simulation.engine.instance import Instance
from planner.simulation.engine.sequence import Sequence
from planner.simulation.machine import Machine
from planner.simulation.server import Scheduling, Server
from planner.trace import prompt_of

# A step takes a second, 10 s a sequence, 0.1 s a token of their context, 0.01 s a token of a prompt.
COSTS = StepCosts(1.0, 10.0, 0.1, 0.01)
SERVER = Server(COSTS, Scheduling(step_tokens=400), block_tokens=16)


class Bench:
    """Submits sequences, runs, and tells of each when its tokens came."""

    def __init__(self, server: Server) -> None:
        self.clock = Clock()
        self.instance = Instance(self.clock, server, Machine())
        self.sequences: list[Sequence] = []
        self.ended: list[int] = []

    def request(self, at_s: float, tokens: int, answer: int, hashes: tuple[int, ...] = (), priority: int = 0) -> None:
        number = len(self.sequences)
        sequence = Sequence(prompt_of(tokens, hashes), answer, priority, on_end=lambda: self.ended.append(number))
        self.sequences.append(sequence)
        self.clock.at(at_s, lambda: self.instance.submit(sequence))

    def times(self) -> list[list[float]]:
        self.clock.run()
        ends = self.instance.steps.ends
        return [[end for first, last in each.stretches for end in ends[first:last]] for each in self.sequences]


def test_a_prompt_in_chunks_and_its_answer() -> None:
    bench = Bench(SERVER)
    bench.request(2.0, 1000, 3)
    # Steps of 400, 400 and 200 tokens; then one sequence that reads 1,000 and 1,001 tokens.
    first = 2 + (1 + 4) + (1 + 4) + (1 + 2)
    assert bench.times() == [pytest.approx([first, first + 111, first + 111 + 111.1])]
    assert (bench.instance.computed, len(bench.instance.steps)) == (1000, 5)
    assert bench.instance.steps.busy_s == pytest.approx(first - 2 + 222.1)


def test_a_pair_of_tokens_costs_attention() -> None:
    bench = Bench(Server(StepCosts(prompt_pair_s=0.001), Scheduling(step_tokens=400)))
    bench.request(0.0, 1000, 1)
    assert bench.times() == [pytest.approx([0.001 * 1000 * 1000 / 2])]


def test_the_shorter_part_of_a_step_hides_behind_the_longer_one() -> None:
    """A step reads for 2 s and computes 1 s with 100 tokens, 4 s with 400, and is never launched in less than 3 s."""
    costs = StepCosts(step_s=2.0, prompt_token_s=0.01)
    for overlap, launch_s, expected in (
        (0.0, 0.0, (2 + 4) + (2 + 1)),
        (1.0, 0.0, 4 + 2),
        (0.25, 0.0, (4 + 1.5) + (2 + 0.75)),
        (1.0, 3.0, 4 + 2),
        (1.0, 5.0, 5 + 2),
    ):
        overlapping = replace(costs, overlap=overlap, launch_s=launch_s, graph_tokens=100)
        bench = Bench(Server(overlapping, Scheduling(step_tokens=400)))
        bench.request(0.0, 500, 1)
        assert bench.times() == [pytest.approx([expected])], (overlap, launch_s)


def test_answers_and_prompts_share_a_step() -> None:
    """The second prompt comes in the first one's third step, and has 399 tokens of the next and the rest after it."""
    bench = Bench(SERVER)
    bench.request(0.0, 100, 5)
    bench.request(25.0, 500, 1)
    steps = [1 + 1, 1 + 10 + 10, 1 + 10 + 10.1]
    steps += [1 + 10 + 10.2 + 3.99, 1 + 10 + 10.3 + 1.01]
    ends = [sum(steps[: number + 1]) for number in range(5)]
    assert bench.times() == [pytest.approx(ends), pytest.approx(ends[4:])]


def test_what_comes_while_answers_go_on_joins_at_the_end_of_the_step() -> None:
    bench = Bench(replace(SERVER, costs=StepCosts(step_s=1.0)))
    bench.request(0.0, 10, 100)
    bench.request(41.5, 10, 10)
    one, other = bench.times()
    assert one == pytest.approx([float(second) for second in range(1, 101)])
    assert other == pytest.approx([float(second) for second in range(43, 53)])
    assert bench.ended == [1, 0]


def test_a_prefix_that_is_held_or_cached_is_not_computed_again() -> None:
    bench = Bench(replace(SERVER, costs=StepCosts(prompt_token_s=0.01)))
    bench.request(0.0, 1000, 1, (1, 2))
    bench.request(20.0, 1000, 1, (1, 3))  # shares 512 tokens
    bench.request(40.0, 512, 1, (1,))  # is there, but for the token that has to be computed
    assert [times[0] for times in bench.times()] == pytest.approx([10.0, 24.88, 40.01])


def test_the_prefix_cache_gives_up_what_was_used_longest_ago() -> None:
    """There are 12 blocks of 128 for prompts of 5: the third takes three of the first's, from its end.

    The second's last token is computed again in a block of its own, and so one of the first is left.
    """
    bench = Bench(replace(SERVER, kv_tokens=1536 + 16))
    for at_s, name in ((0.0, 1), (100.0, 2), (200.0, 3), (300.0, 2), (400.0, 1)):
        bench.request(at_s, 640, 1, (10 * name, 10 * name + 1))
    bench.times()
    assert [each.missed for each in bench.sequences] == [640, 640, 640, 1, 512]


def test_who_was_admitted_last_is_computed_again_when_blocks_run_out() -> None:
    """Four blocks of 16: two prompts of 16 take one each, and both need the second and third at once."""
    bench = Bench(Server(StepCosts(step_s=1.0), Scheduling(step_tokens=400), kv_tokens=64, block_tokens=16))
    bench.request(0.0, 16, 40)
    bench.request(0.5, 16, 20)
    one, other = bench.times()
    # Both have two blocks from their 2nd token on, until the first needs its third with its 18th.
    assert one == pytest.approx([float(second) for second in range(1, 41)])
    assert other[:16] == pytest.approx([float(second) for second in range(2, 18)])
    # 32 tokens, and the 17th is made of them when the first has left its blocks.
    assert other[16:] == pytest.approx([41.0, 42.0, 43.0, 44.0])
    assert (bench.sequences[1].preemptions, bench.sequences[1].missed, bench.instance.preemptions) == (1, 48, 1)
    assert bench.instance.pool.available == 4


def test_a_prompt_waits_until_all_of_it_fits() -> None:
    bench = Bench(Server(StepCosts(step_s=1.0), Scheduling(step_tokens=100), kv_tokens=320, block_tokens=16))
    bench.request(0.0, 160, 5)
    bench.request(1.5, 200, 1)
    one, other = bench.times()
    assert one == pytest.approx([2.0, 3.0, 4.0, 5.0, 6.0])
    assert other == pytest.approx([8.0])


def test_priority_goes_before_the_order_of_coming() -> None:
    bench = Bench(replace(SERVER, costs=StepCosts(prompt_token_s=0.01)))
    for at_s, priority in ((0.0, 5), (0.1, 4), (0.2, 3)):
        bench.request(at_s, 400, 1, priority=priority)
    assert [times[0] for times in bench.times()] == pytest.approx([4.0, 12.0, 8.0])


def test_no_more_sequences_at_once_than_allowed() -> None:
    bench = Bench(Server(StepCosts(step_s=1.0), Scheduling(max_sequences=1)))
    bench.request(0.0, 10, 3)
    bench.request(0.0, 10, 3)
    assert bench.times() == [pytest.approx([1.0, 2.0, 3.0]), pytest.approx([4.0, 5.0, 6.0])]


def test_long_prompts_share_steps_with_others() -> None:
    scheduling = Scheduling(step_tokens=400, long_prefill_threshold=100, adaptive_threshold=True)
    bench = Bench(Server(StepCosts(prompt_token_s=0.01), scheduling))
    bench.request(0.0, 800, 1)
    bench.request(1.0, 800, 1)
    # 400 alone, then 200 of either, and the second's rest alone.
    assert [times[0] for times in bench.times()] == pytest.approx([12.0, 16.0])


def test_a_remote_prompt_needs_room_and_no_step() -> None:
    bench = Bench(Server(StepCosts(step_s=1.0), kv_tokens=320, block_tokens=16))
    rooms: list[float] = []
    remote = Sequence(prompt_of(200, ()), 4, made=1, remote=True, on_room=lambda held: rooms.append(bench.clock.now))
    bench.request(0.0, 160, 4)
    bench.sequences.append(remote)
    bench.clock.at(0.5, lambda: bench.instance.submit(remote))
    bench.clock.at(10.0, lambda: bench.instance.arrived(remote))
    # Its 13 blocks are free when the first request has ended, and its first token was made elsewhere.
    assert bench.times() == [pytest.approx([1.0, 2.0, 3.0, 4.0]), pytest.approx([11.0, 12.0, 13.0])]
    assert rooms == [4.0]


def test_blocks_that_are_kept_make_others_wait() -> None:
    bench = Bench(Server(StepCosts(step_s=1.0), kv_tokens=320, block_tokens=16))
    bench.request(0.0, 200, 1)
    bench.sequences[0].keeps_blocks = True
    bench.request(2.0, 200, 1)
    bench.clock.at(7.0, lambda: bench.instance.release(bench.sequences[0]))
    assert [times[0] for times in bench.times()] == pytest.approx([1.0, 8.0])


def test_a_step_that_one_joins_from_elsewhere_takes_longer() -> None:
    bench = Bench(Server(StepCosts(step_s=1.0, join_s=0.5, join_token_s=0.01)))
    bench.request(0.0, 10, 5)
    remote = Sequence(prompt_of(100, ()), 3, made=1, remote=True)
    bench.sequences.append(remote)
    bench.clock.at(0.0, lambda: bench.instance.submit(remote))
    bench.clock.at(1.5, lambda: bench.instance.arrived(remote))
    assert bench.times() == [pytest.approx([1.0, 2.0, 4.5, 5.5, 6.5]), pytest.approx([4.5, 5.5])]


def test_a_step_that_is_scheduled_ahead_does_not_have_what_comes() -> None:
    """It comes in the 4th step: not in the 5th, which is scheduled already, but in the 6th."""
    bench = Bench(Server(StepCosts(step_s=1.0), Scheduling(steps_ahead=1)))
    bench.request(0.0, 10, 9)
    bench.request(3.5, 10, 2)
    assert bench.times() == [
        pytest.approx([float(second) for second in range(1, 10)]),
        pytest.approx([6.0, 7.0]),
    ]


def test_a_request_that_can_never_fit_is_refused() -> None:
    bench = Bench(Server(StepCosts(step_s=1.0), kv_tokens=320, block_tokens=16))
    bench.request(0.0, 300, 21)
    with pytest.raises(ValueError, match="a request of 321 tokens, prompt and answer: expected at most 320"):
        bench.times()


def test_blocks_divide_those_that_have_an_identity() -> None:
    with pytest.raises(ValueError, match="block_tokens=48: expected a divisor of 128"):
        Instance(Clock(), replace(SERVER, block_tokens=48), Machine())


@pytest.mark.parametrize("steps_ahead", [0, 1])
@pytest.mark.parametrize("kv_tokens", [None, 512])
def test_runs_of_steps_are_only_faster(
    monkeypatch: pytest.MonkeyPatch, kv_tokens: int | None, steps_ahead: int
) -> None:
    """Step by step everything comes out the same, preemptions included."""

    def times() -> list[list[float]]:
        scheduling = Scheduling(step_tokens=400, steps_ahead=steps_ahead)
        bench = Bench(Server(StepCosts(0.1, 0.01, 0.001, 0.01), scheduling, kv_tokens))
        for number in range(30):
            bench.request(3.7 * number, 20 + 7 * number % 60, 1 + 37 * number % 90, (number % 4,))
        found = bench.times()
        assert bench.instance.pool.available == bench.instance.pool.capacity
        assert (bench.instance.preemptions > 0) == (kv_tokens is not None)
        return found

    runs = times()
    monkeypatch.setattr(module, "LONGEST_RUN", 1)
    assert [pytest.approx(each) for each in times()] == runs

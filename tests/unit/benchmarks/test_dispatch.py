"""Choices of instances in simulated time: exact on paper, and better than round robin where prefixes are shared."""

import random
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from benchmarks.dispatch import fleets, several_proxies
from benchmarks.dispatch.choosers import AGGREGATED_CHOOSERS, CHOOSERS, with_seed
from benchmarks.dispatch.fleets import Hardware, Outcome, aggregated, pairs
from benchmarks.dispatch.page import render, row, unbounded_hit_rate
from benchmarks.dispatch.prefill_order import Scheduling, Waited
from benchmarks.dispatch.prefill_order import waits as waits_of
from benchmarks.dispatch.prefill_order_page import mixture
from benchmarks.dispatch.several_proxies import Setup
from benchmarks.dispatch.shared_prefixes import shared_prefixes
from benchmarks.tables import percentile
from planner.trace import Arrival, UnreadableTrace, prompt_of, read_trace

# Mooncake's conversation trace, where it lies beside the checkout; docs/benchmarks has the whole hour.
TRACE = Path(__file__).parents[4] / "shared/data/conversation_trace.jsonl"
FAST = Hardware(prefill_rate=1000, cache_tokens=100_000, step_s=1.0, step_s_per_token=0.001)


def run(arrivals: list[Arrival], hardware: Hardware, chooser: str, producers: int = 4, consumers: int = 4) -> Outcome:
    return fleets.run(arrivals, pairs(hardware, producers, consumers), with_seed(CHOOSERS[chooser], 1))


def conversations(count: int, turns: int, turn_s: float, seed: int = 1) -> list[Arrival]:
    """Each turn's prompt begins with the one before and adds 1,024 tokens; conversations begin one after the other."""
    dice = random.Random(seed)
    arrivals = []
    for conversation in range(count):
        at_s = conversation * turn_s / count
        for turn in range(1, turns + 1):
            prompt = prompt_of(1024 * turn, [conversation * 1000 + block for block in range(2 * turn)])
            arrivals.append(Arrival(at_s, prompt, dice.randrange(50, 400)))
            at_s += turn_s * dice.uniform(0.8, 1.2)
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


def test_one_of_each_on_paper() -> None:
    """1,000 tokens take 1 s each, the second's first 512 are held; a step takes 1 s and 1 ms a token held."""
    arrivals = [
        Arrival(0.0, prompt_of(1000, [1, 2]), 100),
        Arrival(0.5, prompt_of(1000, [1, 3]), 10),
    ]
    outcome = run(arrivals, FAST, "ours", producers=1, consumers=1)
    # The first tokens are the producer's. The second one, there after 1.488 s, is passed on at the end of the step that
    # the first request is in, at 3.0 s, and the request joins then.
    assert outcome.ttft_s == pytest.approx([1.0, 3.0 - 0.5])
    assert sum(outcome.computed.values()) == 1488
    assert outcome.hit_rate == pytest.approx(512 / 2000)
    both_s = sum(1 + 0.001 * (1001 + 1000 + 2 * step) for step in range(9))
    alone_s = sum(1 + 0.001 * (1000 + step) for step in range(10, 99))
    assert outcome.tpot_s == pytest.approx([(3.0 + both_s + alone_s - 1.0) / 99, both_s / 9])


@pytest.mark.parametrize("chooser", CHOOSERS)
def test_every_request_ends_and_the_same_run_gives_the_same_figures(chooser: str) -> None:
    arrivals = conversations(20, 5, 10.0)
    one, other = (run(arrivals, Hardware(8000, 50_000), chooser) for _ in range(2))
    assert one == other
    assert len(one.ttft_s) == len(one.tpot_s) == len(arrivals)
    assert 0 <= one.hit_rate <= unbounded_hit_rate(arrivals)


@pytest.mark.parametrize("chooser", ["round robin", "random", "least requests", "least tokens"])
def test_conversations_are_served_better_where_their_prefix_is(chooser: str) -> None:
    arrivals = conversations(60, 10, 10.0)
    hardware = Hardware(prefill_rate=8000, cache_tokens=400_000)
    ours, theirs = run(arrivals, hardware, "ours"), run(arrivals, hardware, chooser)
    assert ours.hit_rate > 1.3 * theirs.hit_rate
    assert percentile_99(ours) < 0.7 * percentile_99(theirs)


@pytest.mark.parametrize("chooser", [name for name in CHOOSERS if name != "ours"])
@pytest.mark.parametrize("prefixes", [1, 40])
def test_prefixes_that_all_share_are_spread(prefixes: int, chooser: str) -> None:
    """Affinity that did not yield would keep three of four producers idle."""
    arrivals = shared_prefixes(1000, requests_per_s=28, prefixes=prefixes, seed=1)
    hardware = Hardware(prefill_rate=10_000, cache_tokens=500_000)
    ours, theirs = run(arrivals, hardware, "ours"), run(arrivals, hardware, chooser)
    computed = list(ours.computed.values())
    assert max(computed) < 1.1 * mean(computed)
    assert percentile_99(ours) < 1.05 * percentile_99(theirs)


if TRACE.is_file():

    def test_the_recorded_trace() -> None:
        arrivals = read_trace(TRACE, limit=1000)
        hardware = Hardware(prefill_rate=8500, cache_tokens=1_000_000)
        ours, round_robin = run(arrivals, hardware, "ours"), run(arrivals, hardware, "round robin")
        assert ours.hit_rate > 1.5 * round_robin.hit_rate
        assert percentile_99(ours) < percentile_99(round_robin)


def percentile_99(outcome: Outcome) -> float:
    value = percentile(outcome.ttft_s, 99)
    assert value is not None
    return value


def line(timestamp: int, tokens: int, *hash_ids: int) -> str:
    return f'{{"timestamp": {timestamp}, "input_length": {tokens}, "output_length": 5, "hash_ids": {list(hash_ids)}}}\n'


def test_reading_a_trace(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(line(0, 1000, 1, 2) + line(0, 600, 1, 3) + line(3000, 512, 4))
    first, second, third = read_trace(file)
    assert [each.at_s for each in (first, second, third)] == [0.0, 1.5, 3.0]
    assert [len(each.prompt.blocks) for each in (first, second, third)] == [7, 4, 4]
    assert first.prompt.blocks[:4] == second.prompt.blocks[:4]
    assert (first.prompt.tokens, first.prompt.missing(4), first.output_tokens) == (1000, 488, 5)
    assert len(read_trace(file, limit=1)) == 1


@pytest.mark.parametrize("content", ["not JSON\n", "[]\n", '{"timestamp": 0}\n', line(0, 1000, 1)[:-2] + ', "x"'])
def test_a_trace_that_cannot_be_read_is_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(line(0, 1000, 1, 2) + content)
    with pytest.raises(UnreadableTrace, match=r"trace\.jsonl:2: expected a line of Mooncake's format") as refusal:
        read_trace(file)
    assert "\n" not in str(refusal.value)


def test_no_trace(tmp_path: Path) -> None:
    with pytest.raises(UnreadableTrace, match=r"--trace=.*No such file"):
        read_trace(tmp_path / "none")


def test_the_page() -> None:
    arrivals = conversations(4, 3, 10.0)
    cells = row(FAST, arrivals, run(arrivals, FAST, "ours"))
    page = render(
        "python -m benchmarks.dispatch", [("requests", "12")], [("Who chooses", "chosen by", [["ours", *cells]])]
    )
    assert "| ours | 100,000 | 1,000 |" in page
    assert page.count("\n| ") == 6


def run_aggregated(arrivals: list[Arrival], hardware: Hardware, chooser: str, servers: int = 4) -> Outcome:
    return fleets.run(arrivals, aggregated(hardware, servers), with_seed(AGGREGATED_CHOOSERS[chooser], 1))


def test_one_aggregated_server_on_paper() -> None:
    """A step takes 1 s, 1 ms a token held, and 1 ms a token of a prompt."""
    arrivals = [
        Arrival(0.0, prompt_of(1000, [1, 2]), 2),
        Arrival(0.5, prompt_of(3000, [1, 3, 4, 5, 6, 7]), 1),
    ]
    outcome = run_aggregated(arrivals, FAST, "ours", servers=1)
    # 2,047 of the second's 2,488 tokens fit beside the first's last token; then the rest.
    steps_s = [1 + 1.000, 1 + 1.000 + 2.047, 1 + 0.441]
    assert outcome.ttft_s == pytest.approx([steps_s[0], sum(steps_s) - 0.5])
    assert outcome.tpot_s == pytest.approx([steps_s[1]])
    assert (sum(outcome.computed.values()), outcome.prompt_tokens) == (3488, 4000)


@pytest.mark.parametrize("chooser", ["round robin", "random", "least requests", "least tokens"])
def test_conversations_are_served_better_by_the_server_that_has_their_prefix(chooser: str) -> None:
    arrivals = conversations(60, 10, 15.0)
    hardware = Hardware(prefill_rate=8000, cache_tokens=400_000)
    ours, theirs = (run_aggregated(arrivals, hardware, name) for name in ("ours", chooser))
    assert len(ours.ttft_s) == len(ours.tpot_s) == len(arrivals)
    assert mean(ours.ttft_s) < 0.95 * mean(theirs.ttft_s)


ONE_S = Scheduling(1, step_tokens=1000, step_s=0.0)  # a full step of FAST takes a second


def waits(scheduling: Scheduling, *prompts: tuple[float, int]) -> dict[int, float]:
    """TTFT by the prompt's tokens; prompts: when they arrive and of how many."""
    arrivals = [Arrival(at_s, prompt_of(tokens, []), 1) for at_s, tokens in prompts]
    waited = waits_of(arrivals, 1, FAST, scheduling)
    return {each.tokens: each.ttft_s for each in waited}


def test_prompts_of_one_producer_on_paper() -> None:
    """1,000 tokens/s in steps of 1,000: the last tokens of a prompt share a step with the first of the next."""
    prompts = [(0.0, 2500), (0.1, 3000), (0.2, 100)]
    assert waits(ONE_S, *prompts) == pytest.approx({2500: 3.0, 3000: 5.5, 100: 5.4})
    assert waits(replace(ONE_S, factor=8), *prompts) == pytest.approx({2500: 3.0, 3000: 5.5, 100: 2.8})


def test_long_prompts_that_share_steps_let_a_short_one_in() -> None:
    """The second step has 333 tokens of either long one and all of the short one, those after it 500 of either."""
    prompts = [(0.0, 2500), (0.1, 3000), (0.2, 100)]
    shared = waits(replace(ONE_S, factor=8, threshold=100), *prompts)
    assert shared == pytest.approx({2500: 4.433, 3000: 5.5, 100: 1.566})


def test_short_prompts_gain_and_nobody_passes_the_bound() -> None:
    arrivals, hardware = mixture(400, 10.0, (64, 8000)), Hardware(34_000, 1_000_000)
    by_arrival, ours = (
        sorted(waits_of(arrivals, 1, hardware, Scheduling(factor)), key=lambda each: each.at_s) for factor in (1, 8)
    )

    def p99(waited: list[Waited]) -> float:
        return percentile([each.ttft_s for each in waited if each.tokens == 64], 99) or 0.0

    assert p99(ours) < 0.5 * p99(by_arrival)
    assert all(one.ttft_s <= 8 * other.ttft_s for one, other in zip(ours, by_arrival, strict=True))


def test_several_proxies_that_tell_each_other_choose_as_one() -> None:
    """Two producers, two prompts at once that each proxy alone would send to the same one."""
    arrivals = [Arrival(at_s, prompt_of(1000, []), 1) for at_s in (0.0, 0.5)]
    hardware = Hardware(prefill_rate=1000, cache_tokens=100_000)
    by_themselves, told = (
        several_proxies.simulate(arrivals, 2, 2, hardware, Setup(2, "random", every_s), seed=4)  # one to each proxy
        for every_s in (None, 0.1)
    )
    assert max(by_themselves.ttft_s) > 1.5
    assert max(told.ttft_s) < 1.1

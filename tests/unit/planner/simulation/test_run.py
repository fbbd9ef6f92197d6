"""Whole runs: exact on paper, and what holds for every run whatever comes."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulation.costs import Constants, StepCosts, TransferCosts
from planner.simulation.deployment import Deployment
from planner.simulation.machine import Crowding, Pace
from planner.simulation.outcome import Outcome
from planner.simulation.run import simulate
from planner.simulation.server import Scheduling, Server
from planner.trace import Arrival, prompt_of
from proxy.routing.dispatch import Policy
from stack.instances.record import Role

SECOND = Server(StepCosts(step_s=1.0, prompt_token_s=0.001), Scheduling(step_tokens=4000))
HALF = Crowding(0.5, 0.5, 0.5, 0.5)
LOCAL = Policy(local_prompt_tokens=1000, no_producer="refuse")


def deployment(producers: int = 0, consumers: int = 0, aggregated: int = 0, server: Server = SECOND) -> Deployment:
    counts: dict[Role, int] = {"prefill": producers, "decode": consumers, "aggregated": aggregated}
    return Deployment({role: (many, server) for role, many in counts.items() if many})


def requests(number: int, per_s: float, tokens: int, answer: int, seed: int = 1) -> list[Arrival]:
    dice, at_s, arrivals = Random(seed), 0.0, []
    for index in range(number):
        at_s += dice.expovariate(per_s)
        blocks = [index * 1000 + block for block in range(-(-tokens // 512))]
        arrivals.append(Arrival(at_s, prompt_of(tokens, blocks), answer))
    return arrivals


def test_the_producers_token_comes_first_and_the_next_when_the_cache_has_moved() -> None:
    """2,000 tokens take 3 s; their bytes 1 s, hidden but for a tenth; the consumer's steps take a second each."""
    transfer = TransferCosts(1.0, 2000.0, 0.2, 10, handover_s=0.3)
    pair = replace(deployment(1, 1), transfer=transfer, constants=Constants(before_s=0.5, after_s=0.25))
    (served,) = simulate(requests(1, 1.0, 2000, 3), pair).served
    assert served.route.reason == "disaggregated"
    assert served.ttft_s == pytest.approx(0.5 + 3.0 + 0.25)
    assert served.exposed_s == pytest.approx(0.2 + 0.1)
    assert served.gaps_s() == pytest.approx([0.2 + 0.1 + 0.3 + 1.0, 1.0])
    assert served.tpot_s == pytest.approx(1.3)
    assert (served.computed, served.moved) == (2000, 2000)


@pytest.mark.parametrize(("prefill_s", "told_s"), [(2.0, 8.0), (9.0, 12.0)])
def test_the_producers_token_is_passed_on_between_steps_of_the_consumer(prefill_s: float, told_s: float) -> None:
    """Steps of the consumer begin after 0, 4, 8 s and so on; in the second it asks for what has come after 0.1 s."""
    servers: dict[Role, tuple[int, Server]] = {
        "prefill": (1, Server(StepCosts(step_s=prefill_s), Scheduling(step_tokens=4000))),
        "decode": (1, Server(StepCosts(step_s=4.0), Scheduling(step_tokens=4000))),
    }
    pair = Deployment(servers, policy=LOCAL, constants=Constants(after_s=0.25))
    # The first is its idle consumer's, whose steps it then has.
    arrivals = [Arrival(0.0, prompt_of(10, []), 9), Arrival(0.1, prompt_of(3000, []), 3)]
    (split,) = (each for each in simulate(arrivals, pair).served if each.route.producer)
    assert split.ttft_s == pytest.approx(told_s + 0.25 - 0.1)
    assert split.gaps_s() == pytest.approx([4.0, 4.0])


def test_instances_that_share_a_machine_are_slower_while_both_compute() -> None:
    """Both begin at once and take 3 s alone, 4.5 s beside each other; the longer one is alone from then on."""
    crowded = replace(SECOND, pace=Pace(crowding=HALF))
    arrivals = [Arrival(0.0, prompt_of(2000, []), 1), Arrival(0.0, prompt_of(2000, []), 4)]
    one, other = simulate(arrivals, deployment(aggregated=2, server=crowded)).served
    assert one.ttft_s == pytest.approx(4.5)
    assert other.ttft_s == pytest.approx(4.5)
    assert other.gaps_s() == pytest.approx([1.0, 1.0, 1.0])


def test_a_step_changes_its_pace_when_others_begin_or_end() -> None:
    """Steps of a second; in the midst of one the other instance begins with a prompt of 3 s, which then takes 4.5 s."""
    crowded = replace(SECOND, pace=Pace(crowding=HALF))
    arrivals = [Arrival(0.0, prompt_of(10, []), 9), Arrival(3.5, prompt_of(2000, []), 1)]
    stream, prompt = simulate(arrivals, deployment(aggregated=2, server=crowded)).served
    assert prompt.ttft_s == pytest.approx(4.5)
    # The first token comes after 1.01 s. Of the third step 0.51 s are left at 3.5 s, and a half more; when the prompt
    # has ended, at 8 s, 0.735 s are left of the sixth, which are 0.49 s alone.
    changed = [0.49 + 0.51 * 1.5, 1.5, 1.5, 8.0 - (3.5 + 0.51 * 1.5 + 3.0) + (3.5 + 0.51 * 1.5 + 4.5 - 8.0) / 1.5]
    assert stream.gaps_s() == pytest.approx([1.0, 1.0, *changed, 1.0, 1.0])


def test_what_a_step_is_for_says_how_much_it_suffers() -> None:
    """A prompt of 3 s, of which 1 s is as answers have it, and a stream that runs already.

    The prompt's steps: 1 s and 0.2, 2 s and 0.2. The stream's beside it take 1.1 s.
    """
    crowding = Crowding(answers_beside_prompts=0.1, prompts_beside_answers=0.1, answers_beside_answers=0.2)
    crowded = replace(SECOND, pace=Pace(crowding=crowding))
    arrivals = [Arrival(0.0, prompt_of(10, []), 7), Arrival(1.01, prompt_of(2000, []), 1)]
    stream, prompt = simulate(arrivals, deployment(aggregated=2, server=crowded)).served
    assert prompt.ttft_s == pytest.approx(1.2 + 2.2)
    # 3.3 s of its 3.4 are three steps; of the fourth 0.1 s have passed, which are 0.1 / 1.1 of it.
    assert stream.gaps_s() == pytest.approx([1.1, 1.1, 1.1, 0.1 + 1.0 - 0.1 / 1.1, 1.0, 1.0])


def test_beside_several_it_suffers_as_beside_the_worst() -> None:
    crowding = Crowding(answers_beside_answers=0.25, answers_beside_prompts=0.5)
    crowded = replace(SECOND, pace=Pace(crowding=crowding))
    arrivals = [Arrival(0.0, prompt_of(10, []), 3), Arrival(0.0, prompt_of(10, []), 3)]
    two = simulate(arrivals, deployment(aggregated=3, server=crowded)).served
    assert [each.gaps_s() for each in two] == [pytest.approx([1.25, 1.25])] * 2
    arrivals.append(Arrival(0.0, prompt_of(2000, []), 1))
    three = simulate(arrivals, deployment(aggregated=3, server=crowded)).served
    assert three[0].gaps_s()[0] == pytest.approx(1.5)


def test_a_token_that_is_passed_on_waits_for_its_consumers_step_however_long_that_takes() -> None:
    """The producer's is there at 2.4 s, before the end of the consumer's step, which then goes on alone."""
    servers: dict[Role, tuple[int, Server]] = {
        "prefill": (1, Server(StepCosts(step_s=1.2), Scheduling(step_tokens=4000), pace=Pace(crowding=HALF))),
        "decode": (1, Server(StepCosts(step_s=1.0), Scheduling(step_tokens=4000), pace=Pace(crowding=HALF))),
    }
    pair = Deployment(servers, policy=LOCAL)
    arrivals = [Arrival(0.0, prompt_of(10, []), 9), Arrival(0.6, prompt_of(3000, []), 3)]
    (split,) = (each for each in simulate(arrivals, pair).served if each.route.producer)
    # Its first step ends at 0.6 + 0.4 * 1.5 s. The second, which has room for the KV cache, would end at 2.7 s; of its
    # last 0.3 s a third is gained.
    assert split.ttft_s == pytest.approx(1.8 + 0.2)


def test_a_split_request_comes_later_to_its_producer() -> None:
    pair = replace(deployment(1, 1), constants=Constants(before_s=0.5, split_s=0.3))
    (served,) = simulate(requests(1, 1.0, 2000, 3), pair).served
    assert served.ttft_s == pytest.approx(0.5 + 0.3 + 3.0)
    alone = replace(deployment(aggregated=1), constants=Constants(before_s=0.5, split_s=0.3))
    (served,) = simulate(requests(1, 1.0, 2000, 3), alone).served
    assert served.ttft_s == pytest.approx(0.5 + 3.0)


def test_it_comes_later_still_where_the_consumer_computes() -> None:
    """The first prompt is short, and the consumer's own: it has an answer under way when the second one comes."""
    pair = replace(deployment(1, 1), constants=Constants(split_s=0.3, split_beside_s=0.7), policy=LOCAL)
    arrivals = [Arrival(0.0, prompt_of(10, []), 20), Arrival(0.5, prompt_of(2000, []), 3)]
    (_, served) = simulate(arrivals, pair).served
    # 0.5 + 0.7 + 3.0 s, and then to the end of a step: its first one took 1.01 s.
    assert served.ttft_s == pytest.approx(5.01 - 0.5)
    (served,) = simulate(arrivals[1:], pair).served
    assert served.ttft_s == pytest.approx(0.3 + 3.0)


def test_a_requests_way_is_longer_while_another_instance_computes() -> None:
    """The first one's steps do not count for what comes to the same instance."""
    arrivals = [Arrival(0.0, prompt_of(2000, []), 9), Arrival(1.0, prompt_of(1000, []), 1)]
    for aggregated, expected_s in ((2, 0.25 + 2.0), (1, 2.0 + 2.0)):
        long_way = replace(deployment(aggregated=aggregated), constants=Constants(beside_s=0.25))
        (_, second) = simulate(arrivals, long_way).served
        assert second.ttft_s == pytest.approx(expected_s)


def test_a_consumer_that_waits_for_a_cache_slows_its_producer_down() -> None:
    """It has nothing to do and looks all the time: 3 s of a prompt are 3.75 s then, and its own steps as ever."""
    waiting = deployment(1, 1, server=replace(SECOND, pace=Pace(awaiting=0.25)))
    first, second = simulate([Arrival(at_s, prompt_of(2000, []), 3) for at_s in (0.0, 1.0)], waiting).served
    assert first.ttft_s == pytest.approx(3.75)
    assert first.gaps_s() == pytest.approx([1.0, 1.0])
    # In 2 s of it the consumer makes two tokens, and does not wait alone.
    assert second.ttft_s == pytest.approx(3.75 + 2.0 + 1.0 * 1.25 - 1.0)
    assert second.gaps_s() == pytest.approx([1.0, 1.0])


def test_what_chance_adds_to_steps() -> None:
    """Each of the values as often as the others; other ones beside another instance that computes."""
    by_chance = replace(SECOND, pace=Pace(crowding=HALF, jitter_s=(-0.25, 0.25), jitter_beside_s=(3.0,)))
    (alone,) = simulate([Arrival(0.0, prompt_of(10, []), 2001)], deployment(aggregated=1, server=by_chance)).served
    assert {round(gap, 6) for gap in alone.gaps_s()} == {0.75, 1.25}
    assert sum(alone.gaps_s()) == pytest.approx(2000, rel=0.05)
    arrivals = [Arrival(0.0, prompt_of(10, []), 9), Arrival(0.0, prompt_of(2000, []), 1)]
    beside, prompt = simulate(arrivals, deployment(aggregated=2, server=by_chance)).served
    assert prompt.ttft_s == pytest.approx(4.5 + 3.0)
    assert beside.gaps_s()[0] == pytest.approx(1.5 + 3.0)


def test_the_consumers_own_first_token_comes_a_step_after_the_cache() -> None:
    transfer = TransferCosts(1.0, 2000.0, 0.2, 10, handover_s=0.3)
    pair = replace(deployment(1, 1), transfer=transfer, constants=Constants(0.5, 0.25, "consumer"))
    (served,) = simulate(requests(1, 1.0, 2000, 3), pair).served
    assert served.ttft_s == pytest.approx(0.5 + 3.0 + 0.2 + 0.1 + 0.3 + 1.0 + 0.25)
    assert served.gaps_s() == pytest.approx([1.0, 1.0])


def test_an_answer_of_one_token_is_the_producers() -> None:
    (served,) = simulate(requests(1, 1.0, 2000, 1), deployment(1, 1)).served
    assert served.ttft_s == pytest.approx(3.0)
    assert (served.gaps_s(), served.tpot_s) == ([], None)


def test_a_short_prompt_is_its_idle_consumers() -> None:
    """The proxy decides: alone with 100 tokens costs less than 100 there and 1,000 for the way."""
    (served,) = simulate(requests(1, 1.0, 100, 3), replace(deployment(1, 1), policy=LOCAL)).served
    assert (served.route.reason, served.route.producer) == ("short_prompt", None)
    assert served.gaps_s() == pytest.approx([1.0, 1.0])


def test_producers_take_short_prompts_first() -> None:
    """The rate is measured at the first prompt: those that come while the second is computed are in the order of it."""
    arrivals = [
        Arrival(at_s, prompt_of(tokens, []), 1) for at_s, tokens in ((0.0, 4000), (10.0, 4000), (10.1, 3900), (10.2, 5))
    ]

    def order(factor: int) -> list[int]:
        served = simulate(arrivals, replace(deployment(1, 1), order_factor=factor)).served
        return [each.arrival.prompt.tokens for each in served]

    assert order(1) == [4000, 4000, 3900, 5]
    assert order(8) == [4000, 4000, 5, 3900]


def test_an_aggregated_server_stops_its_streams_for_a_prompt_and_a_pair_does_not() -> None:
    arrivals = [Arrival(0.0, prompt_of(10, []), 20), Arrival(5.5, prompt_of(3000, []), 1)]

    def longest_gap(of: Deployment) -> float:
        return max(simulate(arrivals, of).served[0].gaps_s())

    assert longest_gap(deployment(aggregated=1)) == pytest.approx(4.0)
    assert longest_gap(deployment(1, 1)) == pytest.approx(1.0)


ARRIVALS = st.lists(
    st.tuples(
        st.floats(0, 20, allow_nan=False),
        st.integers(1, 3000),
        st.integers(1, 60),
        st.sampled_from([None, 1, 2, 3]),
    ),
    min_size=1,
    max_size=25,
)
SPLITS = st.sampled_from([(1, 1, 0), (2, 1, 0), (1, 3, 0), (0, 0, 1), (0, 0, 3)])
SMALL = Server(
    StepCosts(0.01, 0.001, 1e-5, 1e-4, 1e-8, 0.002), Scheduling(512, max_sequences=8, steps_ahead=1), kv_tokens=6144
)  # fmt: skip


def drawn(rows: list[tuple[float, int, int, int | None]]) -> list[Arrival]:
    arrivals = []
    for number, (at_s, tokens, answer, prefix) in enumerate(sorted(rows, key=lambda row: row[0])):
        blocks = range(-(-tokens // 512))
        first = 1000 * (number + 10 if prefix is None else prefix)
        arrivals.append(Arrival(at_s, prompt_of(tokens, [first + block for block in blocks]), answer))
    return arrivals


@settings(max_examples=40, deadline=None)
@given(rows=ARRIVALS, split=SPLITS, kv_tokens=st.sampled_from([None, 6144]), policy=st.sampled_from([LOCAL, None]))
def test_no_request_is_lost_and_work_is_conserved(
    rows: list[tuple[float, int, int, int | None]],
    split: tuple[int, int, int],
    kv_tokens: int | None,
    policy: Policy | None,
) -> None:
    of = deployment(*split, server=replace(SMALL, kv_tokens=kv_tokens))
    if policy is not None:
        of = replace(of, policy=policy)
    arrivals = drawn(rows)
    outcome = simulate(arrivals, of)
    assert sorted(map(id, arrivals)) == sorted(id(each.arrival) for each in outcome.served)
    for each in outcome.served:
        times = list(each.token_times())
        assert len(times) == each.arrival.output_tokens
        assert times == sorted(times)
        assert [times[0], times[-1]] == pytest.approx([each.first_s, each.ended_s])
        assert each.arrival.at_s < each.first_s
        if not each.preemptions:
            assert each.computed <= each.arrival.prompt.tokens + (each.route.producer is not None)
    assert sum(work.computed for work in outcome.instances.values()) == sum(each.computed for each in outcome.served)
    span_s = max(each.ended_s for each in outcome.served) - arrivals[0].at_s
    assert all(work.busy_s <= span_s + 1e-6 for work in outcome.instances.values())
    if kv_tokens is None:
        assert not any(work.preemptions for work in outcome.instances.values())


@settings(max_examples=15, deadline=None)
@given(rows=ARRIVALS, split=SPLITS)
def test_the_same_run_gives_the_same_figures(
    rows: list[tuple[float, int, int, int | None]], split: tuple[int, int, int]
) -> None:
    arrivals = drawn(rows)

    def figures(outcome: Outcome) -> list[tuple[float, float, str]]:
        return [(each.first_s, each.ended_s, each.route.consumer.instance_id) for each in outcome.served]

    one, other = (simulate(arrivals, deployment(*split, server=SMALL)) for _ in range(2))
    assert figures(one) == figures(other)


def goodput(of: Deployment, arrivals: list[Arrival], ttft_s: float, tpot_s: float) -> float:
    served = simulate(arrivals, of).served
    good = sum(each.ttft_s <= ttft_s and (each.tpot_s or 0.0) <= tpot_s for each in served)
    return good / len(served)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("split", [(1, 1, 0), (2, 1, 0), (0, 0, 2)])
@pytest.mark.parametrize("per_s", [4.0, 10.0])
def test_more_instances_never_lower_goodput_beyond_noise(per_s: float, split: tuple[int, int, int], seed: int) -> None:
    server = Server(StepCosts(0.01, 1e-4, 1e-7, 5e-5, 1e-9), kv_tokens=200_000)
    arrivals = requests(150, per_s, 2000, 60, seed)
    before = goodput(deployment(*split, server=server), arrivals, 0.6, 0.03)
    for role in range(3):
        if split[role]:
            producers, consumers, aggregated = (many + (number == role) for number, many in enumerate(split))
            more = deployment(producers, consumers, aggregated, server)
            assert goodput(more, arrivals, 0.6, 0.03) >= before - 0.05

"""What is kept of the last minutes: by one process, and by several that are put together."""

import asyncio
import json
from typing import Any

import pytest

from proxy.ratio.matching import PART_S, PARTS, Part
from proxy.ratio.watch import Pairs, Seen, Watch, windows
from proxy.routing.admission import Prefills
from proxy.routing.dispatch import Load, Route
from proxy.routing.fleet import Fleet, View
from proxy.telemetry.history import Asked, Ended, History
from proxy.telemetry.request_facts import AttemptFacts, RequestFacts
from tests.unit.proxy.scripted import MODEL, instance

START = 1_000_000 // PART_S * PART_S + PART_S
P0, P1, D0 = instance("prefill", "p0"), instance("prefill", "p1"), instance("decode", "d0")


class Watched:
    """A fleet of two producers and a consumer, whose time passes as a test says."""

    def __init__(self) -> None:
        self.now = float(START)
        self.usage: float | None = None
        self.fleet = Fleet()
        self.fleet.update(View((P0, P1, D0, instance("aggregated", "a0", served_models=("other",))), revision=1))
        self.prefills = {each.instance_id: Prefills() for each in (P0, P1)}
        self.history = History(lambda: self.now)
        gauges: Any = self
        self.watch = Watch(self.fleet, self.prefills, gauges, self.history, lambda: self.now)
        self.watch._timer.cancel()  # the test looks

    def lately(self, instances: object) -> list[dict[str, float]]:
        return [] if self.usage is None else [{"cache_usage": self.usage}]

    def passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.watch.look()
            self.now += 1.0

    def window(self) -> list[Part]:
        return windows([json.loads(json.dumps(self.watch.told()))], self.now).get(MODEL, [])


@pytest.fixture
async def watched() -> Watched:
    return Watched()


async def test_a_part_by_hand(watched: Watched) -> None:
    """p0 has a prompt in hand for 12 s of 30, p1 for all of them: 42 / 30 producers were busy."""
    for each in (P0, P1):
        watched.fleet.begin(each)
        watched.prefills[each.instance_id].begin(800, 0.0)
    watched.fleet.begin(D0)
    watched.usage = 0.25
    watched.passes(12)
    watched.fleet.end(P0)
    watched.prefills["p0"].end(800, 800, 12.0)
    watched.fleet.begin(D0)
    watched.passes(PART_S - 12)
    assert watched.window() == [
        Part(
            busy=42 / 30,
            computed=800,
            waiting=800,
            streams=(12 + 2 * 18) / 30,
            itl_s=None,
            cache_usage=0.25,
            consumers=1,
        )
    ]


async def test_what_streams_waited_from_token_to_token(watched: Watched) -> None:
    """Of two streams that ended in the part, 0.1 and 0.3 s."""
    watched.passes(10)
    for gap_s in (0.1, 0.3):
        facts = RequestFacts(0.0, stream=True)
        attempt = AttemptFacts(Route(D0, P0, "disaggregated", 4, 8), "0", 0.1, 0.3)
        attempt.answered_at = 0.5
        facts.tried(attempt)
        asked = Asked("id", "", "/v1/completions", MODEL)
        watched.history.ended(asked, Ended(200, "ok", None, 12, 100), facts, 0.5 + 10 * gap_s)
    watched.passes(PART_S)
    (part,) = watched.window()
    assert part.itl_s == pytest.approx(0.2)


async def test_a_part_that_was_not_watched_from_its_beginning_is_left_out() -> None:
    watched = Watched()
    watched.now = watched.watch._since = START + 3.0
    watched.passes(PART_S - 3)
    assert watched.window() == []
    watched.passes(PART_S)
    assert len(watched.window()) == 1


async def test_only_the_last_parts_count(watched: Watched) -> None:
    watched.passes((PARTS + 3) * PART_S)
    assert len(watched.window()) == PARTS
    watched.now += 2 * PART_S  # nobody has looked since
    assert len(watched.window()) == PARTS - 2


async def test_other_proxies_loads_count(watched: Watched) -> None:
    watched.fleet.others_have({"p0": Load(1, 0, 900, 0), "d0": Load(3, 0, 900, 1)})
    watched.passes(PART_S)
    (part,) = watched.window()
    assert (part.busy, part.streams) == (1.0, 2.0)


async def test_a_model_without_a_pair_has_no_ratio() -> None:
    view = View((P0, D0, instance("aggregated", "a0"), instance("prefill", "p2", served_models=("lone",))), revision=1)
    assert {name: [len(side) for side in pair] for name, pair in Pairs(view).of_model.items()} == {MODEL: [1, 1]}


def test_two_workers_together() -> None:
    """In seconds 0 to 3 the one keeps p0 busy and then the other: four of four, not five."""
    one = Seen(0b1111, {"p0": 0b0111}, 100, 50, 8, 2, 0.5, 2, 0.2, 2)
    other = Seen(0b1111, {"p0": 0b1100, "p1": 0b0001}, 300, 10, 4, 2, 0.0, 0, 0.4, 1)
    told = [[(START, {MODEL: vars(each)})] for each in (one, other)]
    assert windows(told, START + PART_S) == {MODEL: [Part(5 / 4, 400, 60, 3.0, (0.2 + 0.4) / 3, 0.25, 2)]}


async def test_it_looks_by_itself() -> None:
    watched = Watched()
    gauges: Any = watched
    watch = Watch(watched.fleet, watched.prefills, gauges, watched.history, lambda: watched.now)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    watch.close()
    assert watch.told()[0][1][MODEL]["looked"] == 1

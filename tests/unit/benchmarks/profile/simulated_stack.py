"""A stack in simulated time that answers as a client would see it: what is measured there is known beforehand."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.connector.client import Stream
from benchmarks.connector.topology.routes import Route
from planner.profile import Profile
from planner.simulation.exchange import Choose
from planner.simulation.outcome import Served
from planner.simulation.run import simulate
from planner.sizing.splits import Split, Variant
from planner.trace import Arrival, prompt_of
from proxy.routing import dispatch
from proxy.routing.dispatch import SPLIT_ALL, Demand
from proxy.routing.fleet import Fleet

CONSUMER, PAIR, PROXY = Route("consumer", "c"), Route("pair", "c", "p"), Route("proxy", "x")
PRODUCER = Route("producer", "p")
SETTLED = 50  # turns of the event loop in which all that is asked at one moment has been asked


@dataclass(eq=False)
class _Asked:
    arrival: Arrival
    route: Route
    stream: "asyncio.Future[Stream]"


@dataclass
class SimulatedStack:
    """proxy_s: more that a request through the proxy takes. `ask` and `sleep` are what a measurement needs."""

    profile: Profile
    proxy_s: float = 0.0
    transport: str = "tcp"
    now: float = 0.0
    _asked: list[_Asked] = field(default_factory=list)
    _names: int = 0

    async def sleep(self, seconds: float) -> None:
        for _ in range(SETTLED // 5):  # what was asked before is asked at the moment before
            await asyncio.sleep(0)
        self.now += seconds

    async def ask(self, route: Route, prompt: Sequence[int], output_tokens: int) -> Stream:
        self._names += 1000
        blocks = range(self._names, self._names + -(-len(prompt) // 512))
        arrival = Arrival(self.now, prompt_of(len(prompt), blocks), output_tokens)
        asked = _Asked(arrival, route, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        for _ in range(SETTLED):
            await asyncio.sleep(0)
        if not asked.stream.done():
            self._answer_all()
        return await asked.stream

    def _answer_all(self) -> None:
        asked, self._asked = self._asked, []
        asked.sort(key=lambda each: each.arrival.at_s)
        by_prompt = {id(each.arrival.prompt): each for each in asked}

        def chooser(fleet: Fleet) -> Choose:
            instances = fleet.view.usable

            def choose(demand: Demand) -> dispatch.Route:
                pair = fleet.route(demand)
                if by_prompt[id(demand.prompt)].route.prefill_url:
                    return pair
                role = "prefill" if by_prompt[id(demand.prompt)].route is PRODUCER else "decode"
                (alone,) = (each for each in instances if each.role == role)
                return dispatch.Route(alone, None, "short_prompt", 0, pair.decode_tokens)

            return choose

        deployment = Variant(self.profile, SPLIT_ALL).deployment(Split(1, 1))
        for served in simulate([each.arrival for each in asked], deployment, chooser).served:
            each = by_prompt[id(served.arrival.prompt)]
            if each.stream.cancelled():
                continue
            each.stream.set_result(self._stream(served, self.proxy_s if each.route is PROXY else 0.0))
            self.now = max(self.now, served.ended_s)

    def _stream(self, served: Served, more_s: float) -> Stream:
        facts = None
        if served.exposed_s is not None:
            tokens = served.moved
            facts = {
                "bytes": tokens * self.profile.bytes_per_token,
                "tokens": tokens,
                "exposed_seconds": served.exposed_s,
                "transport": self.transport,
            }
        return Stream(
            ttft_s=served.ttft_s + more_s,
            itl_s=served.gaps_s(),
            tokens=[0] * served.arrival.output_tokens,
            cached_tokens=0,
            prefill_s=served.ttft_s if served.route.producer else None,  # of an idle consumer
            transfer=facts,
            started=served.arrival.at_s,
        )

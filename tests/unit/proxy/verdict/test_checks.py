"""When questions are put, on the event loop that the proxy runs on, whose timers differ from asyncio's."""

import asyncio

import uvloop

from proxy.verdict.checks import Checks
from proxy.verdict.circuit import BreakerLimits, Circuit, Finding, Question
from stack.instances.record import Instance
from tests.unit.proxy.scripted import instance


def test_what_breaks_in_the_same_moment_leads_to_one_question() -> None:
    """A request's answer and another's first token are lost together when an instance dies."""
    asked: list[Question] = []

    async def breaks_twice() -> None:
        async def ask(instance: Instance, question: Question, limit_s: float) -> Finding:
            asked.append(question)
            return "well"

        there = instance("decode", "d0")
        checks = Checks(ask, lambda: [there], lambda role, finding: None)
        circuit = Circuit("d0", BreakerLimits(failures=3, cooldown_s=10.0))
        for _ in range(2):
            circuit.broken()
            checks.consider(circuit)
        while not asked:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        await checks.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(breaks_twice(), 10))
    assert len(asked) == 1

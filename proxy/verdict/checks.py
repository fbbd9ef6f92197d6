"""Puts the questions when they are due: one at a time to an instance, and only where something gave reason to."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog

from proxy.verdict.circuit import Circuit, Finding, Question
from stack.instances.record import Instance, Role

Ask = Callable[[Instance, Question, float], Coroutine[Any, Any, Finding]]

# In use: after so many failures requests wait for the verdict no longer than this.
PROMPT_S = 5.0
# Left alone: nobody waits, and the first token of a slow instance may take long.
PATIENT_S = 60.0

log = structlog.get_logger()


class Checks:
    """Without a task or a timer while no circuit has a question.

    Args: instances: those that are known now; count: is told of each check.
    """

    def __init__(
        self, ask: Ask, instances: Callable[[], Iterable[Instance]], count: Callable[[Role, Finding], None]
    ) -> None:
        self._ask = ask
        self._instances = instances
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._timers: dict[Circuit, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[Finding]] = set()
        self._closed = False

    def consider(self, circuit: Circuit) -> None:
        """The circuit may have a question that is due, now or later."""
        due = circuit.due()
        timer = self._timers.get(circuit)
        if due is None or self._closed or (timer is not None and timer.when() <= due):
            return
        if timer is not None:
            timer.cancel()
        self._timers[circuit] = self._loop.call_at(max(due, self._loop.time()), self._begin, circuit)

    async def close(self) -> None:
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, circuit: Circuit) -> None:
        del self._timers[circuit]
        due = circuit.due()
        if due is None:
            return  # settled in the meantime
        if due > self._loop.time():
            self.consider(circuit)
            return
        instance = next((each for each in self._instances() if each.instance_id == circuit.instance_id), None)
        if instance is None:
            return
        question, in_use = circuit.ask(self._loop.time()), circuit.closed
        task = self._loop.create_task(self._ask(instance, question, PROMPT_S if in_use else PATIENT_S))
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._ended(ended, circuit, instance, question))

    def _ended(self, task: "asyncio.Task[Finding]", circuit: Circuit, instance: Instance, question: Question) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        if (defect := task.exception()) is not None:
            log.error("internal error", instance=instance.instance_id, asked=question, exc_info=defect)
        finding: Finding = "silent" if defect is not None else task.result()
        before = circuit.closed
        circuit.found(finding, self._loop.time())
        self._count(instance.role, finding)
        if finding != "well" or before != circuit.closed:
            log.warning(
                "instance checked",
                instance=instance.instance_id,
                role=instance.role,
                asked=question,
                result=finding,
                failures=circuit.failures,
                circuit=circuit.state(),
            )
        self.consider(circuit)

"""A run from the first arrival to the last answer."""

from collections.abc import Callable, Sequence
from functools import partial

from planner.simulation.clock import Clock
from planner.simulation.deployment import Deployment
from planner.simulation.engine.instance import Instance
from planner.simulation.exchange import Choose, Exchange, World
from planner.simulation.machine import Machine
from planner.simulation.outcome import Outcome, Work
from planner.trace import Arrival
from proxy.routing.fleet import Fleet

Chooser = Callable[[Fleet], Choose]


def ours(fleet: Fleet) -> Choose:
    return fleet.route


def simulate(
    arrivals: Sequence[Arrival],
    deployment: Deployment,
    chooser: Chooser = ours,
    at_arrival: Callable[[Fleet], None] | None = None,
) -> Outcome:
    """All requests to their ends.

    Args: chooser: who chooses the instances in place of the proxy; at_arrival: is shown the fleet behind each request.
    Raises: ValueError: a request is larger than an instance's KV cache.
    """
    clock = Clock()
    fleet = deployment.fleet(lambda: clock.now)
    machine = Machine()
    instances = {name: Instance(clock, server, machine) for name, server in deployment.names.items()}
    world = World(clock, deployment, fleet, chooser(fleet), instances, at_arrival and partial(at_arrival, fleet))
    for arrival in arrivals:
        clock.at(arrival.at_s, partial(_begin, world, arrival))
    clock.run()
    world.outcome.instances = {
        name: Work(each.computed, each.steps.busy_s, len(each.steps), each.preemptions)
        for name, each in instances.items()
    }
    return world.outcome


def _begin(world: World, arrival: Arrival) -> None:
    Exchange(world, arrival)  # which the events that it waits for keep

"""Who makes which part of a test, and when it begins: what Locust's master and its workers tell each other.

The master gives every worker that is there its share; each prepares and says so; when all have, the master names the
schedule's zero. A share is bound to its worker: one that connects later gets none, one that is lost takes its share
with it, and both are reported instead of being papered over. Without workers the only process plays both parts, by the
same messages.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import gevent
from locust.env import Environment
from locust.log import greenlet_exception_logger
from locust.rpc.protocol import Message
from locust.runners import STATE_MISSING, MasterRunner, Runner, WorkerRunner

from loadtest import options
from loadtest.errors import RequestFailed
from loadtest.sending.clock import RoundTrip
from loadtest.sending.part import Part, Receiver, Share
from loadtest.settings import LoadTestSettings
from stack.configuration.environment import ConfigError, load

logger = logging.getLogger(__name__)

_SHARE, _PREPARED, _ZERO, _OVER = "loadtest_share", "loadtest_prepared", "loadtest_zero", "loadtest_over"
# The settings of a test, its zero in Unix seconds, and how many seconds after that no request is begun any more.
Beginning = Callable[[LoadTestSettings, float, float], None]

_LEAD_S = 0.5  # from the naming of the zero to the zero: all workers have heard of it by then


@dataclass
class _Member:
    share: Share
    asked: float = 0.0  # when it said that it is prepared, by its own clock, and when that was heard here
    heard: float = 0.0
    is_prepared: bool = False
    is_over: bool = False
    is_lost: bool = False


class Team:
    """On the master, or in the only process: deals the shares and watches who makes them.

    Args: begin: called once there is a zero; what it raises as ConfigError stops the test.
    zero: of the schedule, of `time.time()`; None before it begins. problem: why the test cannot begin.
    """

    def __init__(self, environment: Environment, begin: Beginning) -> None:
        self._environment = environment
        self._begin = begin
        self._members: dict[str, _Member] = {}
        self._seconds = math.inf
        self._test = 0
        self._watches = False
        self.settings: LoadTestSettings | None = None
        self.zero: float | None = None
        self.problem: str | None = None
        self._runner.register_message(_PREPARED, self._on_prepared)
        self._runner.register_message(_OVER, self._on_over)
        environment.events.test_start.add_listener(self._deal)
        environment.events.test_stopping.add_listener(self._stop_watching)
        environment.events.test_stop.add_listener(self._forget)
        environment.events.worker_connect.add_listener(self._on_connect)

    @property
    def _runner(self) -> Runner:
        assert self._environment.runner is not None
        return self._environment.runner

    @property
    def is_over(self) -> bool:
        """Whether the test that was begun has nothing left to do."""
        return self.problem is not None or (
            bool(self._members) and all(member.is_over or member.is_lost for member in self._members.values())
        )

    @property
    def size(self) -> int:
        """Processes that make this test, or would make the next one."""
        return len(self._members) or len(self._clients()) or 1

    def look(self) -> None:
        """Report members that were lost since the last look."""
        if not isinstance(self._runner, MasterRunner):
            return
        for client, member in self._members.items():
            node = self._runner.clients.get(client)
            is_lost = not member.is_over and (node is None or node.state == STATE_MISSING)
            if is_lost and not member.is_lost:
                name = f"worker {member.share.worker + 1} of {member.share.workers}"
                self._report(name, "WorkerLost: it left during the test, and its share of the schedule with it")
                if self.zero is None:
                    self._cannot_begin(f"{name} left")
            member.is_lost = is_lost

    def _deal(self, environment: Environment, **_: Any) -> None:
        self.settings = load(LoadTestSettings, **options.chosen(vars(environment.parsed_options)))
        self.zero, self.problem, self._watches = None, None, True
        self._test += 1
        given, profile = vars(environment.parsed_options), self.settings.profile
        clients = self._clients()
        if self.settings.loadtest_arrivals == "closed":  # a worker without a user would never come to its end
            clients = clients[: math.ceil(profile.highest) if profile else given["num_users"] or 1]
        self._seconds = min(given["run_time"] or math.inf, profile.seconds if profile else math.inf)
        shares = (Share(number, len(clients), self._seconds) for number in range(len(clients)))
        self._members = {client: _Member(share) for client, share in zip(clients, shares, strict=True)}
        for client, member in self._members.items():
            self._runner.send_message(_SHARE, {"test": self._test, **asdict(member.share)}, client)

    def _clients(self) -> list[str]:
        """In the order in which Locust gives them users (locust.dispatch.UsersDispatcher): one on each host first."""
        if not isinstance(self._runner, MasterRunner):
            return ["local"]
        clients = self._runner.clients
        ids = sorted(node.id for node in clients.ready + clients.spawning + clients.running)
        hosts = [client.split("_")[0] for client in ids]
        return sorted(ids, key=lambda client: (hosts[: ids.index(client)].count(client.split("_")[0]), client))

    def _on_prepared(self, msg: Message, **_: Any) -> None:
        member = self._members.get(msg.node_id)
        if member is None or msg.data["test"] != self._test or not self._watches:
            return
        if (problem := msg.data["problem"]) and self.problem is None:
            self._cannot_begin(problem)
        member.asked, member.heard, member.is_prepared = msg.data["asked"], time.time(), True
        if self.problem is None and all(one.is_prepared for one in self._members.values()):
            self._name_the_zero()

    def _name_the_zero(self) -> None:
        assert self.settings is not None
        if (warmup := self.settings.loadtest_warmup_s) >= self._seconds:
            self._cannot_begin(f"LOADTEST_WARMUP_S={warmup:g}: expected less than the test's {self._seconds:g} s")
            return
        self.zero = time.time() + _LEAD_S
        try:
            self._begin(self.settings, self.zero, self._seconds)
        except ConfigError as error:
            self._cannot_begin(str(error))
        else:
            for client, member in self._members.items():
                trip = {"asked": member.asked, "heard": member.heard, "answered": time.time()}
                self._runner.send_message(_ZERO, {"test": self._test, "zero": self.zero, "trip": trip}, client)

    def _cannot_begin(self, problem: str) -> None:
        self.problem = problem
        self._report("the test cannot begin", problem)

    def _on_over(self, msg: Message, **_: Any) -> None:
        if msg.data["test"] == self._test and msg.node_id in self._members:
            self._members[msg.node_id].is_over = True

    def _on_connect(self, client_id: str, **_: Any) -> None:
        if not self._watches or client_id in self._members:
            return
        if self.settings and self.settings.loadtest_arrivals == "closed":  # Locust moves users to it, who have no work
            self._report(
                "worker", "WorkerLate: it connected during the test, and users who moved to it make no request"
            )
        else:
            logger.warning("a worker connected during the test: it has no part in it")

    def _forget(self, **_: Any) -> None:
        """The next test is dealt anew, to whoever is there then."""
        self._members, self.problem, self.zero = {}, None, None

    def _stop_watching(self, **_: Any) -> None:
        self.look()
        self._watches = False

    def _report(self, name: str, problem: str) -> None:
        """In the log, among the failures of Locust's page, and so in the exit code."""
        logger.error("%s: %s", name, problem)
        self._environment.stats.log_error("test", name, problem)


class Participant:
    """On a worker, or in the only process: makes the share that it is given.

    Args: receive: gets every exchange; begin: called when a test begins.
    part: of the test that runs, or ran last; None before the first, and for a test that began without this process.
    """

    def __init__(self, environment: Environment, receive: Receiver, begin: Beginning) -> None:
        self._environment = environment
        self._begin = begin
        self._receive = receive
        self._dealt: dict[str, Any] | None = None
        self._test = 0
        self._preparing: gevent.Greenlet | None = None
        self.part: Part | None = None
        self._runner.register_message(_SHARE, self._on_share)
        self._runner.register_message(_ZERO, self._on_zero)
        environment.events.test_start.add_listener(self._prepare)
        environment.events.test_stopping.add_listener(self._stop)
        environment.events.test_stop.add_listener(self._flush)

    @property
    def _runner(self) -> Runner:
        assert self._environment.runner is not None
        return self._environment.runner

    def _on_share(self, msg: Message, **_: Any) -> None:
        self._dealt = msg.data

    def _prepare(self, environment: Environment, **_: Any) -> None:
        dealt, self._dealt = self._dealt, None
        if dealt is None:
            self.part = None
            return
        self._test = dealt.pop("test")
        settings = load(LoadTestSettings, **options.chosen(vars(environment.parsed_options)))
        self.part = Part(settings, Share(**dealt), self._receive)
        self._preparing = gevent.spawn(self._make, self.part)
        self._preparing.link_exception(greenlet_exception_logger(logger))

    def _make(self, part: Part) -> None:
        problem = None
        try:
            part.prepare()
        except (RequestFailed, ValueError) as error:
            problem = f"{part.settings.target}: {error!r}" if isinstance(error, RequestFailed) else str(error)
        self._runner.send_message(_PREPARED, {"test": self._test, "problem": problem, "asked": time.time()})
        part.over.wait()
        self._flush()
        self._runner.send_message(_OVER, {"test": self._test})

    def _on_zero(self, msg: Message, **_: Any) -> None:
        if self.part is not None and msg.data["test"] == self._test:
            zero = self._by_this_clock(msg.data["zero"], RoundTrip(**msg.data["trip"], received=time.time()))
            if isinstance(self._runner, WorkerRunner):  # the only process of a test has heard it as its team
                self._begin(self.part.settings, zero, self.part.seconds)
            self.part.begin(zero)

    def _by_this_clock(self, zero: float, trip: RoundTrip) -> float:
        if trip.ahead:
            logger.warning(
                "this machine's clock is %.3f s %s the master's, known to %.3f s: the schedule follows the master's",
                abs(trip.ahead),
                "behind" if trip.ahead > 0 else "ahead of",
                trip.uncertainty,
            )
        return zero - trip.ahead

    def _stop(self, environment: Environment, **_: Any) -> None:
        """Here the open requests are waited for, not by Locust, which would do it user by user."""
        if self._preparing is not None:
            self._preparing.kill()
        if self.part is not None:
            self.part.stop(environment.stop_timeout or 0.0)
        if isinstance(self._runner, WorkerRunner):
            environment.stop_timeout = 0.0  # until the next test's; a worker would sleep for it now, deaf to its master

    def _flush(self, **_: Any) -> None:
        """Everything that is known here reaches the master before it hears that this part is over."""
        if isinstance(self._runner, WorkerRunner):
            data: dict[str, Any] = {}
            self._environment.events.report_to_master.fire(client_id=self._runner.client_id, data=data)
            self._runner.send_message("stats", data)

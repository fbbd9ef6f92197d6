"""Follows the instances in etcd and publishes each new view of them.

What etcd does must not take the service down. While etcd is away the last view is served, marked stale. When it is
back its records are not the whole truth at first: leases have run out, or its data are gone, and each instance needs a
moment to register again. So for REGISTRATION_GRACE_S those of the last view that are missing are served on. One that
is really gone fails its legs meanwhile, as every instance does between its end and the end of its lease.

Runs in a thread of its own, because the generated etcd client blocks.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import grpc
import structlog
from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception_type, wait_exponential_jitter
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set

from proxy.instances.etcd_watch import EtcdWatch, State, WatchEnded
from proxy.instances.records import Records
from proxy.routing.fleet import View
from stack import etcd
from stack.instances.record import PREFIX

# A launcher registers again within 8 s with LEASE_TTL_S=5: it tries every third of that, with two calls of at most 3 s.
# And as much again for a busy machine.
REGISTRATION_GRACE_S = 15.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Shown:
    """What the published view is of: `served` is `registered` and what was kept beside it."""

    served: Mapping[str, bytes]
    registered: Mapping[str, bytes]


class Discovery:
    """Calls `publish` in the running loop with every new view, until `stop`."""

    def __init__(
        self, endpoint: str, publish: Callable[[View], None], registration_grace_s: float = REGISTRATION_GRACE_S
    ) -> None:
        self._target = etcd.authority(endpoint)
        self._publish = publish
        self._grace_s = registration_grace_s
        self._view = View()
        self._records = Records()
        self._shown: Shown | None = None  # none while etcd is away
        self._kept: Mapping[str, bytes] = {}  # what was served when etcd was lost, until the grace has ended
        self._grace_ends = 0.0
        self._lost_at = 0.0
        self._revision = 0
        self._stopping = threading.Event()
        self._watch: EtcdWatch | None = None
        self._thread = threading.Thread(target=self._run, name="discovery", daemon=True)
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        self._stopping.set()
        if self._watch is not None:
            self._watch.end()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                Retrying(
                    retry=retry_if_exception_type((grpc.RpcError, WatchEnded)),
                    wait=wait_exponential_jitter(multiplier=0.2, jitter=0.2, max=2),
                    sleep=sleep_using_event(self._stopping),
                    stop=stop_when_event_set(self._stopping),
                    before_sleep=self._failed,
                )(self._follow)
        except RetryError:
            pass  # stopped while etcd was away
        finally:
            # Without a stop that is a defect: its traceback goes to stderr, and the view must not look fresh.
            self._lost("discovery has ended")

    def _follow(self) -> None:
        """Returns when a watch that worked has ended, so that the next try starts without a delay."""
        self._watch = EtcdWatch(self._target, PREFIX)
        if self._stopping.is_set():
            return
        states = self._watch.states()
        self._returned(next(states))
        try:
            for state in states:
                self._show(state)
        except (grpc.RpcError, WatchEnded) as error:
            self._lost(_summary(error))

    def _returned(self, state: State) -> None:
        log.info("etcd connected", endpoint=self._target, revision=state.revision, instances=len(state.records))
        if state.revision < self._revision:
            log.warning("etcd has lost its data", revision=state.revision, before=self._revision)
        self._grace_ends = time.monotonic() + self._grace_s
        self._show(state)

    def _show(self, state: State) -> None:
        self._revision = state.revision
        if time.monotonic() > self._grace_ends:
            self._kept = {}
        shown = Shown({**self._kept, **state.records}, state.records)
        if shown == self._shown:
            return
        self._shown = shown
        view = self._records.view_of(shown.served, state.revision)
        if missing := [instance.instance_id for instance in view.usable if instance.key not in state.records]:
            reason = f"not registered again since etcd is back: {', '.join(missing)}"
            view = replace(view, stale_since=self._lost_at, stale_reason=reason)
        self._change_to(view)

    def _failed(self, state: RetryCallState) -> None:
        self._lost(_summary(state.outcome.exception() if state.outcome else None))

    def _lost(self, reason: str) -> None:
        told = self._shown is None and self._view.stale_since is not None
        if self._stopping.is_set() or told:
            return
        log.warning("etcd unreachable, the last view is served", endpoint=self._target, reason=reason)
        if self._shown is not None:
            self._kept, self._shown = self._shown.served, None
        self._lost_at = self._view.stale_since or time.time()
        self._change_to(replace(self._view, stale_since=self._lost_at, stale_reason=reason))

    def _change_to(self, view: View) -> None:
        self._view = view
        self._loop.call_soon_threadsafe(self._publish, view)


def _summary(error: BaseException | None) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)

"""Follows the instances in etcd: a list, then a watch from the list's revision on, so that no event is lost.

Runs in a thread of its own, because the generated etcd client blocks. When the connection breaks, the last view is
published again, marked stale, and the thread starts over with a fresh list; nothing that runs has to stop for it.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import grpc
import structlog
from pydantic import ValidationError
from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception_type, wait_exponential_jitter
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set

from proxy.etcd_rpc import etcdrpc
from proxy.fleet import View
from stack import etcd
from stack.instances import PREFIX, Instance

LIST_TIMEOUT_S = 3.0
# Without these a silent network cut leaves the watch open and deaf. etcd allows a ping every 5 s.
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),  # etcd is in the own network whatever http_proxy says
)

log = structlog.get_logger()


class WatchEnded(Exception):
    """etcd ended the watch without a failure of the connection, e.g. because the revision was compacted."""


class Discovery:
    """Calls `publish` in the running loop with every new view, until `stop`."""

    def __init__(self, endpoint: str, publish: Callable[[View], None]) -> None:
        host, port = etcd.address(endpoint)
        self._target = f"{host}:{port}"
        self._publish = publish
        self._view = View()
        self._stopping = threading.Event()
        self._watch: grpc.Call | None = None
        self._thread = threading.Thread(target=self._run, name="discovery", daemon=True)
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        self._stopping.set()
        if self._watch is not None:
            self._watch.cancel()
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
        """List, then watch. Returns when a watch that worked has ended, so that the next try starts without a delay."""
        channel = grpc.insecure_channel(self._target, options=CHANNEL_OPTIONS)
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            records, revision = _list(channel)
            requests.put(_watch_from(revision + 1))
            watch = etcdrpc.WatchStub(channel).Watch(iter(requests.get, None))
            self._watch = watch
            if self._stopping.is_set():
                return
            _check(next(watch, None))
            self._show(records, revision)
            log.info("etcd connected", endpoint=self._target, revision=revision, instances=len(records))
            try:
                for response in watch:
                    _check(response)
                    _apply(records, response)
                    self._show(records, response.header.revision)
            except (grpc.RpcError, WatchEnded) as error:
                self._lost(_summary(error))
        finally:
            requests.put(None)
            channel.close()

    def _show(self, records: Mapping[str, bytes], revision: int) -> None:
        self._view = view_of(records, revision)
        self._loop.call_soon_threadsafe(self._publish, self._view)

    def _failed(self, state: RetryCallState) -> None:
        self._lost(_summary(state.outcome.exception() if state.outcome else None))

    def _lost(self, reason: str) -> None:
        if self._stopping.is_set() or self._view.stale_since is not None:
            return
        log.warning("etcd unreachable, the last view is served", endpoint=self._target, reason=reason)
        self._view = replace(self._view, stale_since=time.time())
        self._loop.call_soon_threadsafe(self._publish, self._view)


def view_of(records: Mapping[str, bytes], revision: int) -> View:
    """The view that these etcd keys and values amount to."""
    instances: list[Instance] = []
    unreadable: dict[str, str] = {}
    for key, value in sorted(records.items()):
        try:
            instance = Instance.model_validate_json(value)
        except ValidationError as error:
            unreadable[key] = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        else:
            instances.append(instance)
    return View(tuple(instances), _superseded(instances), unreadable, revision)


def _superseded(instances: list[Instance]) -> dict[str, str]:
    """A restarted server has the old one's URL at once, but the old one's record stays until its lease ends."""
    newest: dict[str, Instance] = {}
    for instance in sorted(instances, key=lambda instance: instance.started_at):
        newest[instance.url] = instance
    return {
        instance.instance_id: newest[instance.url].instance_id
        for instance in instances
        if newest[instance.url] is not instance
    }


def _list(channel: grpc.Channel) -> tuple[dict[str, bytes], int]:
    request = etcdrpc.RangeRequest(key=PREFIX.encode(), range_end=_prefix_end(PREFIX))
    answer = etcdrpc.KVStub(channel).Range(request, LIST_TIMEOUT_S)
    return {item.key.decode(): item.value for item in answer.kvs}, answer.header.revision


def _watch_from(revision: int) -> Any:
    return etcdrpc.WatchRequest(
        create_request=etcdrpc.WatchCreateRequest(
            key=PREFIX.encode(), range_end=_prefix_end(PREFIX), start_revision=revision
        )
    )


def _check(response: Any | None) -> None:
    if response is None:
        raise WatchEnded("closed before it began")
    if response.canceled or response.compact_revision:
        raise WatchEnded(f"cancelled by etcd, compacted at revision {response.compact_revision}")


def _apply(records: dict[str, bytes], response: Any) -> None:
    for event in response.events:
        key = event.kv.key.decode()
        if event.type == event.PUT:
            records[key] = event.kv.value
        else:
            records.pop(key, None)


def _prefix_end(prefix: str) -> bytes:
    """etcd's range end for everything that starts with `prefix`."""
    return prefix[:-1].encode() + bytes([ord(prefix[-1]) + 1])


def _summary(error: BaseException | None) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)

"""What etcd holds under a prefix: one list, then every change to it, for as long as etcd is heard.

The watch starts at the list's revision, so that no event is lost. TCP does not tell a silent network cut, a host that
is gone or a process that stands still from a quiet etcd, and leases run out meanwhile. So etcd is asked for a sign of
life on the watch's own stream, and what it says after a silence is not believed: a new list is due.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from stack import etcd
from stack.etcd.rpc import etcdrpc

LIST_TIMEOUT_S = 3.0
# Of one list: a thousand large records and more. gRPC's own bound is 4 MB, beyond which etcd would seem to be away.
OPTIONS = (*etcd.CHANNEL_OPTIONS, ("grpc.max_receive_message_length", 64 << 20))
PULSE_S = 1.0
SILENCE_S = 3.0  # shorter than a lease of LEASE_TTL_S=5 just renewed: what ends while etcd is silent is seen as such
# A progress request (field 3, empty), which came with etcd 3.4: etcd3's generated code is older and keeps it as it is.
PULSE = etcdrpc.WatchRequest.FromString(b"\x1a\x00")


class WatchEnded(Exception):
    """The watch ended without a failure of the connection, e.g. because etcd compacted its revision."""


@dataclass(frozen=True)
class State:
    """`records`: values by key; `revision`: etcd's own count of changes."""

    records: dict[str, bytes]
    revision: int


class EtcdWatch:
    """To be followed once, in one thread, by reading `states` to its end; `end` may be called from any."""

    def __init__(self, target: str, prefix: str) -> None:
        self._target = target
        self._prefix = prefix
        self._ended = threading.Event()
        self._heard = 0.0

    def end(self) -> None:
        self._ended.set()

    def states(self) -> Iterator[State]:
        """The first once the watch stands; later ones at least every PULSE_S, changed or not.

        Raises: grpc.RpcError, WatchEnded: the caller starts anew.
        """
        bounds = {"key": self._prefix.encode(), "range_end": _prefix_end(self._prefix)}
        # These options share nothing with the connection before it: not its sockets, nor the wait after its failure.
        with grpc.insecure_channel(self._target, options=OPTIONS) as channel:
            listed = etcdrpc.KVStub(channel).Range(etcdrpc.RangeRequest(**bounds), LIST_TIMEOUT_S)
            records = {item.key.decode(): item.value for item in listed.kvs}
            since = etcdrpc.WatchCreateRequest(**bounds, start_revision=listed.header.revision + 1)
            self._heard = time.monotonic()
            try:
                for response in etcdrpc.WatchStub(channel).Watch(self._requests(channel, since)):
                    self._check(response)
                    _apply(records, response)
                    yield State(dict(records), response.header.revision)
            except grpc.RpcError:
                self._check_silence()  # if it was too long, that is why the channel was closed
                raise
            finally:
                self.end()
        raise WatchEnded("closed by etcd")

    def _requests(self, channel: grpc.Channel, create: Any) -> Iterator[Any]:
        """What is sent on the watch's stream; a thread of gRPC's asks for it."""
        yield etcdrpc.WatchRequest(create_request=create)
        while not self._ended.wait(PULSE_S) and self._silence() <= SILENCE_S:
            yield PULSE
        channel.close()

    def _check(self, response: Any) -> None:
        self._check_silence()
        self._heard = time.monotonic()
        if response.canceled or response.compact_revision:
            raise WatchEnded(f"cancelled by etcd, compacted at revision {response.compact_revision}")

    def _check_silence(self) -> None:
        if (silence := self._silence()) > SILENCE_S:
            raise WatchEnded(f"nothing heard for {silence:.1f} s")

    def _silence(self) -> float:
        return time.monotonic() - self._heard


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

"""Keeps one instance's record in etcd, under a lease that lives only while the instance is healthy.

etcd being away stops nothing that runs: the record is written again, under a new lease, once etcd answers. Should etcd
have lost its data, Mooncake's descriptions of the instance's memory come back as well. Mooncake writes them when a rank
opens an engine and never again, and without them no peer that starts later could write to the instance. They also tell
over which transports it is reached.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

import grpc

from connector.mooncake.transports import TRANSPORTS
from stack import etcd
from stack.etcd.rpc import Etcd3Exception
from stack.instances.record import Instance

log = logging.getLogger(__name__)

ETCD_AWAY = (Etcd3Exception, grpc.RpcError)


class Registration:
    """`ttl` in seconds: how long after the last `keep` the record disappears by itself."""

    def __init__(self, endpoint: str, instance: Instance, ttl: int) -> None:
        self._endpoint = endpoint
        self._instance = instance
        self._ttl = ttl
        self._client = etcd.connect(endpoint)
        self._lease: int | None = None  # its id in etcd
        self._written = False  # the record there is as it is here
        self._reachable = True
        self._segments: dict[str, bytes] = {}  # Mooncake's keys and values

    def serves(self, said: Mapping[str, Any]) -> bool:
        """What the instance says of its models, fields of its record: the next `keep` writes it.

        Returns: whether that is new.
        """
        before, self._instance = self._instance, self._instance.model_copy(update=dict(said))
        self._written = self._written and self._instance == before
        return self._instance != before

    def keep(self) -> None:
        """Register, or renew the lease; to be called a few times in each `ttl` while the instance is healthy."""
        try:
            if self._lease is not None and not self._renew(self._lease):
                log.warning("etcd no longer knows our lease: registering again")
                self._lease = None
            if self._lease is None:
                for key, value in self._segments.items():
                    self._client.put_if_not_exists(key, value)
            self._segments = self._published_segments()
            if self._lease is None:
                self._instance = self._instance.model_copy(update={"transports": _transports(self._segments)})
                lease = self._client.lease(self._ttl).id
                self._client.put(self._instance.key, self._instance.model_dump_json(), lease=lease)
                self._lease, self._written = lease, True
                over = f", KV cache over {', '.join(self._instance.transports)}" if self._instance.transports else ""
                log.info("registered %s in etcd at %s%s", self._instance.key, self._endpoint, over)
            elif not self._written:
                self._client.put(self._instance.key, self._instance.model_dump_json(), lease=self._lease)
                self._written = True
                log.info("%s serves %s", self._instance.key, ", ".join(self._instance.served_models))
        except ETCD_AWAY as error:
            if self._reachable:
                log.warning("etcd at %s does not answer (%s): retrying", self._endpoint, type(error).__name__)
            self._reachable = False
            # TCP tries a connection that was cut at ever longer intervals, and one whose other end is gone for minutes.
            self._client.close()
            self._client = etcd.connect(self._endpoint)
        else:
            if not self._reachable:
                log.info("etcd at %s answers again", self._endpoint)
            self._reachable = True

    def lapse(self) -> None:
        """The instance is not healthy: forget the lease, so that the next `keep` makes a new record."""
        if self._lease is not None:
            self._revoke(self._lease)
            self._lease = None

    def leave(self) -> None:
        """The instance stops: remove its record at once."""
        self.lapse()
        self._client.close()

    def _published_segments(self) -> dict[str, bytes]:
        return {
            item.key.decode(): value
            for engine in self._instance.by_engine()
            for prefix in _segment_prefixes(engine.instance_id)
            for value, item in self._client.get_prefix(prefix)
        }

    def _renew(self, lease: int) -> bool:
        return all(answer.TTL > 0 for answer in self._client.refresh_lease(lease))

    def _revoke(self, lease: int) -> None:
        try:
            self._client.revoke_lease(lease)
            log.info("left etcd: %s", self._instance.key)
        except ETCD_AWAY as error:
            log.warning("could not leave etcd (%s): the lease ends within %d s", type(error).__name__, self._ttl)


def forget_old_segments(endpoint: str, name: str) -> None:
    """Delete what Mooncake left in etcd for earlier processes of this instance; a killed one cannot do it itself.

    `name`: what the instance ids of all its incarnations begin with, and so the names of their segments. An etcd that
    does not answer is no reason not to start: the keys only take space.
    """
    try:
        client = etcd.connect(endpoint)
        for prefix in _segment_prefixes(name):
            client.delete_prefix(prefix)
        client.close()
    except ETCD_AWAY as error:
        log.warning("could not clean up Mooncake's old keys in etcd: %s", type(error).__name__)


def _transports(segments: Mapping[str, bytes]) -> tuple[str, ...]:
    """What Mooncake really uses, best first. A segment without memory is of a transport that was left out after all."""
    records = [json.loads(value) for key, value in segments.items() if key.startswith("mooncake/ram/")]
    used = {record["protocol"] for record in records if record["buffers"]}
    return tuple(transport for transport in TRANSPORTS if transport in used)


def _segment_prefixes(name: str) -> list[str]:
    """What Mooncake's keys for an instance begin with, or for all whose ids begin with `name`."""
    return [f"mooncake/{kind}/{name}-" for kind in ("ram", "rpc_meta")]

"""One rank's side of the transfers, put together when vLLM has allocated its KV cache: engines, channel, worker."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from connector.cache.layout import KVLayout
from connector.control.channel import Channel
from connector.mooncake.device_memory import DeviceMemory, StagedEngine, on_gpu, pinned
from connector.mooncake.engines import open_engines
from connector.mooncake.fences import DeviceFences, HostFences
from connector.mooncake.rank_cache import HostMemory, RankCache
from connector.scheduling.steps import RankAddress
from connector.telling.stats import TransferStats
from connector.transfer.consumer import Consumer
from connector.transfer.producer import Pace, Producer
from connector.transfer.revocation import Revocation
from connector.vllm_hooks.options import ConnectorOptions


@dataclass(frozen=True)
class Parts:
    """What both roles are made of."""

    number: int
    engine_id: str
    options: ConnectorOptions
    cache: RankCache
    channel: Channel
    device: torch.device
    stats: TransferStats

    def producer(self) -> Producer:
        options, least, best = self.options, self.options.min_stream_tokens, self.cache.engines.best
        pace = Pace(
            patience=options.patience,
            write_timeout=options.write_timeout,
            min_stream_tokens=best.min_stream_tokens if least is None else least,
            spare_launches=best.outruns_launches and least is None,
            sender_threads=options.sender_threads,
        )
        fences = DeviceFences(self.device) if self.device.type == "cuda" else HostFences()
        return Producer(self.engine_id, self.number, self.cache, self.channel, fences, pace, self.stats)

    def consumer(self) -> Consumer:
        options, revoked = self.options, Revocation(self.cache.engines, self.stats).over
        return Consumer(
            self.number, self.cache, self.channel, options.timeout, options.cancel_timeout, revoked, self.stats
        )


class Rank:
    """A rank at work. address: what the other side needs to know of it."""

    def __init__(self, parts: Parts, worker: Producer | Consumer) -> None:
        self.worker = worker
        engines = parts.cache.engines
        self.address = RankAddress(parts.channel.address, engines.segments, engines.host_identity, parts.cache.layout)
        self._number = parts.number
        self._channel = parts.channel
        self._engines = engines  # a consumer's too must live on, or its memory is unregistered
        parts.channel.serve(worker.on_message, worker.on_tick, worker.on_peer_lost, worker.on_peer_back)

    def take_renamed(self) -> dict[int, dict[str, str]]:
        """By rank the names under which its memory is reached, where they are others than when last asked."""
        if self._engines.segments == self.address.segments:
            return {}
        self.address = replace(self.address, segments=self._engines.segments)
        return {self._number: self.address.segments}

    def close(self) -> None:
        if isinstance(self.worker, Producer):
            self.worker.close()  # first: its senders still answer
        self._channel.close()


def gather(
    number: int,
    engine_id: str,
    options: ConnectorOptions,
    kv_caches: dict[str, torch.Tensor],
    layout: KVLayout,
    stats: TransferStats,
) -> Parts:
    """Register the rank's caches with the engines of its transports, and open its control channel.

    Raises: TransferError: no engine runs over the transport asked for; ValueError: the stack's key cannot be used.
    """
    switch = os.environ.get("CONNECTOR_DROP_WRITES_FILE")
    engines = open_engines(
        # A segment's name must be new at every start: the launcher makes the engine id so.
        name=f"{engine_id}-{number}",
        host=options.host,
        metadata_server=options.metadata_server,
        setting=options.transport,
        device_name=options.device_name,
        write_timeout=options.write_timeout,
        drop_switch=Path(switch) if switch else None,
    )
    storages = {cache.untyped_storage().data_ptr(): cache.untyped_storage() for cache in kv_caches.values()}
    for address, storage in storages.items():
        engines.register(address, storage.nbytes())
    device = next(iter(kv_caches.values())).device
    memory: HostMemory | DeviceMemory = HostMemory()
    if device.type == "cuda":
        memory = device_memory = on_gpu(list(storages.values()), device)
        engines.replace("tcp", lambda tcp: StagedEngine(tcp, device_memory, pinned(options.sender_threads)))
    channel = options.open_channel(options.control_port + number)
    return Parts(number, engine_id, options, RankCache(layout, memory, engines), channel, device, stats)

"""The class that vLLM loads (`kv_connector_module_path`): it maps vLLM's hooks (0.32, 0.33) onto producer and consumer.

vLLM makes one object with role SCHEDULER in the engine core and one with role WORKER for each rank; a worker's object
exists before its KV cache is allocated. What each hook promises is vLLM's `kv_connector/v1/base.py`.
"""

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
)

from connector.channel import Channel
from connector.consumer import Consumer
from connector.messages import Done, Message
from connector.metrics import StepStats, TransferMetrics
from connector.options import ConnectorOptions
from connector.parallel import heads_of_rank
from connector.producer import Producer
from connector.rank import Rank, gather
from connector.scheduler import ConsumerScheduler, ProducerScheduler
from connector.stats import TransferStats
from connector.steps import ConsumerStep, ProducerStep, RankAddress
from connector.transfer_facts import PIPE_VARIABLE, FactsWriter
from connector.vllm_cache import cache_facts, layout_of, movable_block_size, separable_heads
from connector.vllm_hooks.vllm_versions import WithoutSleepMode, refuse_options

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

log = logging.getLogger(__name__)

# In a step without tokens the engine core would spin; the end of a transfer wakes it at once, so this only bounds it.
IDLE_WAIT_S = 0.003


@dataclass(frozen=True)
class StepMetadata(KVConnectorMetadata):
    step: ProducerStep | ConsumerStep


@dataclass(frozen=True)
class RankMetadata(KVConnectorHandshakeMetadata):
    address: RankAddress


@dataclass(frozen=True)
class Received(KVConnectorWorkerMetadata):
    """By request id, the facts of each rank's part of a transfer that arrived whole in this step; and by rank the
    names under which its memory is reached from now on."""

    done: dict[str, list[Done]]
    segments: dict[int, dict[str, str]]

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "Received":
        assert isinstance(other, Received)
        requests = self.done.keys() | other.done.keys()
        return Received(
            {name: [*self.done.get(name, []), *other.done.get(name, [])] for name in requests},
            self.segments | other.segments,
        )


class StreamingMooncakeConnector(WithoutSleepMode, KVConnectorBase_V1):
    """Streams the KV cache of a prompt from a producer to a consumer while the producer still computes it.

    Raises: ValueError: at start, for a model or a setting whose cache cannot be moved, with the reason.
    """

    def __init__(self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig") -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        _log_as_vllm()
        refuse_options(vllm_config)
        self._options = ConnectorOptions.from_extra_config(self._kv_transfer_config.kv_connector_extra_config)
        self._produces = self._kv_transfer_config.kv_role == "kv_producer"
        self._block_size = movable_block_size(vllm_config, kv_cache_config, self._kv_transfer_config.kv_role)
        self._ranks = vllm_config.parallel_config.tensor_parallel_size
        self._total_heads = separable_heads(vllm_config)
        self._fingerprint = cache_facts(vllm_config, kv_cache_config, self._options, self._total_heads)
        self._stats = TransferStats()
        self._rank: Rank | None = None
        self._channel: Channel | None = None  # of a consumer's scheduler
        self._layers: dict[str, int] = {}
        self._block_pool: BlockPool | None = None
        self._scheduler: ProducerScheduler | ConsumerScheduler | None = None
        if role is KVConnectorRole.SCHEDULER:
            self._scheduler = ProducerScheduler() if self._produces else self._consumer_scheduler()

    def _consumer_scheduler(self) -> ConsumerScheduler:
        channel = self._channel = self._options.open_channel(port=0)
        scheduler = ConsumerScheduler(
            self._fingerprint,
            self._block_size,
            self._total_heads,
            self._options.checksum,
            channel.send,
            FactsWriter(os.environ.get(PIPE_VARIABLE)),
        )
        channel.serve(_ignore, _nothing, _left_to_workers, scheduler.peer_back)
        return scheduler

    # --- scheduler ---

    def bind_gpu_block_pool(self, gpu_block_pool: "BlockPool") -> None:
        self._block_pool = gpu_block_pool

    def set_xfer_handshake_metadata(self, metadata: dict[int, KVConnectorHandshakeMetadata]) -> None:
        if isinstance(self._scheduler, ConsumerScheduler):
            self._scheduler.set_ranks(
                [meta.address for _, meta in sorted(metadata.items()) if isinstance(meta, RankMetadata)]
            )

    def on_new_request(self, request: "Request") -> None:
        assert self._scheduler is not None
        self._scheduler.on_new_request(request)

    def get_num_new_matched_tokens(self, request: "Request", num_computed_tokens: int) -> tuple[int | None, bool]:
        if isinstance(self._scheduler, ConsumerScheduler):
            return self._scheduler.tokens_from_producer(request, num_computed_tokens)
        return 0, False

    def update_state_after_alloc(self, request: "Request", blocks: "KVCacheBlocks", num_external_tokens: int) -> None:
        if isinstance(self._scheduler, ConsumerScheduler):
            self._scheduler.blocks_allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> KVConnectorMetadata:
        assert self._scheduler is not None
        return StepMetadata(self._scheduler.build_step(scheduler_output))

    def update_connector_output(self, connector_output: "KVConnectorOutput") -> None:
        if isinstance(self._scheduler, ProducerScheduler):
            self._scheduler.sent(set(connector_output.finished_sending or ()))
        if isinstance(self._scheduler, ConsumerScheduler):
            received = connector_output.kv_connector_worker_meta
            facts = {}
            if isinstance(received, Received):
                facts = received.done
                for rank, segments in received.segments.items():
                    self._scheduler.set_segments(rank, segments)
            self._scheduler.loaded(set(connector_output.finished_recving or ()), facts)

    def request_finished(self, request: "Request", block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        if isinstance(self._scheduler, ProducerScheduler):
            return self._scheduler.request_finished(request, block_ids), None
        assert self._scheduler is not None
        return False, self._scheduler.request_finished(request)

    # --- worker ---

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._layers = {name: index for index, name in enumerate(kv_caches)}
        number, engine_id = get_tensor_model_parallel_rank(), self._kv_transfer_config.engine_id or ""
        heads = heads_of_rank(number, self._ranks, self._total_heads)
        layout = layout_of(kv_caches, self._kv_cache_config.num_blocks, heads)
        parts = gather(
            number,
            engine_id,
            self._options,
            kv_caches,
            layout,
            block_tokens=self._block_size,
            fingerprint=self._fingerprint,
            stats=self._stats,
        )
        self._rank = Rank(parts, parts.producer() if self._produces else parts.consumer())
        log.info(
            "KV transfer: %s rank %d at %s, %d layers, %d blocks of %d tokens, %d bytes a block and layer, over %s",
            self._kv_transfer_config.kv_role,
            number,
            self._rank.address.control,
            len(kv_caches),
            layout.num_blocks,
            self._block_size,
            layout.page,
            ", ".join(self._rank.address.segments),
        )

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        return RankMetadata(self._rank.address) if self._rank is not None else None

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        assert isinstance(kv_connector_metadata, StepMetadata)
        if isinstance(self._worker, Producer) and isinstance(kv_connector_metadata.step, ProducerStep):
            self._worker.rewrite_blocks_of(kv_connector_metadata.step.preempted)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        match self._worker, self._step():
            case Producer() as producer, ProducerStep() as step:
                producer.begin_step(step)
            case Consumer() as consumer, ConsumerStep() as step:
                consumer.begin_step(step)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Nothing: the producer writes; waiting began in `bind_connector_metadata`, which is earlier."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: a request is scheduled only after its whole load."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        if isinstance(self._worker, Producer) and self._options.layerwise:
            self._worker.layer_computed(self._layers[layer_name])

    def wait_for_save(self) -> None:
        if isinstance(self._worker, Producer):
            self._worker.step_computed()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        assert self._worker is not None
        finished = self._worker.take_finished(IDLE_WAIT_S if self._step().idle else 0.0)
        return (finished, None) if self._produces else (None, finished)

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.take_invalid_blocks() if isinstance(self._worker, Consumer) else set()

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        if self._rank is None or not isinstance(self._worker, Consumer):
            return None
        done = {request_id: [facts] for request_id, facts in self._worker.take_done().items()}
        renamed = self._rank.take_renamed()
        return Received(done, renamed) if done or renamed else None

    def get_kv_connector_stats(self) -> StepStats | None:
        if self._scheduler is not None and self._block_pool is not None:
            self._stats.free_blocks(self._block_pool.get_num_free_blocks())
            self._stats.blocks_held(self._scheduler.blocks_held)
        data = self._stats.take()
        return StepStats(data=data) if data is not None else None

    def shutdown(self) -> None:
        for part in (self._rank, self._channel):
            if part is not None:
                part.close()

    @property
    def _worker(self) -> Producer | Consumer | None:
        return self._rank.worker if self._rank is not None else None

    def _step(self) -> ProducerStep | ConsumerStep:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, StepMetadata)
        return metadata.step

    # --- what vLLM asks the class, also in its API server ---

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: "VllmConfig") -> str | None:
        """A layout in which a head of a block is contiguous, so that the two sides may split heads differently."""
        return None if vllm_config.model_config.use_mla else "LBHNC"

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        """A full CUDA graph would skip the per-layer hook, so a layer-wise producer needs piecewise ones."""
        return ConnectorOptions.from_extra_config(extra_config).layerwise

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> StepStats:
        stats = StepStats(data=data or {})
        if not data:
            stats.reset()
        return stats

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: Any
    ) -> TransferMetrics:
        return TransferMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)


def _log_as_vllm() -> None:
    """vLLM sets up its own loggers only: what the connector says would have no time, process or level."""
    ours, vllm = logging.getLogger("connector"), logging.getLogger("vllm")
    ours.handlers, ours.propagate = list(vllm.handlers), vllm.propagate
    ours.setLevel(vllm.level)


def _ignore(message: Message) -> None:
    log.warning("scheduler: ignored a %s; answers go to the workers", type(message).__name__)


def _nothing() -> None:
    pass


def _left_to_workers(address: str, gone: bool) -> None:
    pass

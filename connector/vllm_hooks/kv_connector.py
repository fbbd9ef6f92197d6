"""The class that vLLM loads (`kv_connector_module_path`): it maps vLLM's hooks (0.32, 0.33) onto producer and consumer.

vLLM makes one object with role SCHEDULER in the engine core and one with role WORKER for each rank; a worker's object
exists before its KV cache is allocated. What each hook promises is vLLM's `kv_connector/v1/base.py`.
"""

import logging
import os
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed import get_pp_group, get_tensor_model_parallel_rank
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)

from connector.cache.movable import groups_of, refuse_unmovable
from connector.cache.stages import refuse_disagreement
from connector.cache.vllm_cache import layout_of
from connector.control.channel import Channel
from connector.first_token.expected import FirstTokens
from connector.first_token.sampled import SampledTokens
from connector.scheduling.consumer_scheduler import ConsumerScheduler
from connector.scheduling.producer_scheduler import ProducerScheduler
from connector.scheduling.steps import ConsumerStep, ProducerStep
from connector.telling.metrics import StepStats, TransferMetrics
from connector.telling.stats import TransferStats
from connector.telling.transfer_facts import PIPE_VARIABLE, FactsWriter
from connector.transfer.consumer import Consumer
from connector.transfer.producer import Producer
from connector.vllm_hooks.metadata import RankMetadata, Received, StepMetadata
from connector.vllm_hooks.options import ConnectorOptions
from connector.vllm_hooks.rank import Rank, gather
from connector.vllm_hooks.scheduler_channel import serve_a_consumer, serve_a_producer
from connector.vllm_hooks.vllm_log import log_as_vllm
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


class StreamingMooncakeConnector(WithoutSleepMode, KVConnectorBase_V1, SupportsHMA):
    """Streams the KV cache of a prompt from a producer to a consumer while the producer still computes it.

    Raises: ValueError: at start, for a model or a setting whose cache cannot be moved, with the reason.
    """

    def __init__(self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig") -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        log_as_vllm()
        refuse_options(vllm_config)
        told = ConnectorOptions.from_extra_config(self._kv_transfer_config.kv_connector_extra_config)
        self._options = told.of_engine(vllm_config.parallel_config, self._kv_transfer_config.engine_id or "")
        self._produces = self._kv_transfer_config.kv_role == "kv_producer"
        refuse_unmovable(vllm_config, self._kv_transfer_config.kv_role)
        self._options.refuse_other_stages(vllm_config.parallel_config.pipeline_parallel_size)
        groups = groups_of(kv_cache_config, vllm_config.model_config.max_model_len)
        self._stats = TransferStats()
        self._rank: Rank | None = None
        self._channel: Channel | None = None  # of a scheduler
        self._sampled: SampledTokens | None = None  # of a producer's
        self.first_tokens: FirstTokens | None = None  # of a consumer's, for `first_token/scheduler.py`
        self._layers: dict[str, int] = {}
        self._block_pool: BlockPool | None = None
        self._scheduler: ProducerScheduler | ConsumerScheduler | None = None
        if role is KVConnectorRole.SCHEDULER:
            channel = self._channel = self._options.open_channel(port=0)
            if self._produces:
                kinds, lookahead = [group.kind for group in groups], vllm_config.num_prefill_lookahead_tokens
                self._sampled = SampledTokens(self._kv_transfer_config.engine_id or "", channel.send)
                serve_a_producer(channel)
                self._scheduler = ProducerScheduler.of(kinds, lookahead, self._sampled)
            else:
                publish = FactsWriter(os.environ.get(PIPE_VARIABLE))
                self.first_tokens = FirstTokens(channel.address, self._stats, publish)
                self._scheduler = ConsumerScheduler(self._options.checksum, channel.send, publish, self.first_tokens)
                serve_a_consumer(channel, self._scheduler, self.first_tokens)

    # --- scheduler ---

    def bind_gpu_block_pool(self, gpu_block_pool: "BlockPool") -> None:
        self._block_pool = gpu_block_pool

    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: dict[tuple[int, int], KVConnectorHandshakeMetadata]
    ) -> None:
        """By stage of the pipeline and rank in it, in whose order control addresses are numbered."""
        ranks = [meta.address for _, meta in sorted(metadata.items()) if isinstance(meta, RankMetadata)]
        refuse_disagreement([rank.layout for rank in ranks])
        if isinstance(self._scheduler, ConsumerScheduler):
            self._scheduler.set_ranks(ranks)
        if self._sampled is not None:
            self._sampled.set_ranks([rank.control for rank in ranks])

    def on_new_request(self, request: "Request") -> None:
        assert self._scheduler is not None
        self._scheduler.on_new_request(request)

    def get_num_new_matched_tokens(self, request: "Request", num_computed_tokens: int) -> tuple[int | None, bool]:
        if isinstance(self._scheduler, ConsumerScheduler):
            return self._scheduler.tokens_from_producer(request, num_computed_tokens)
        return 0, False

    def update_state_after_alloc(self, request: "Request", blocks: "KVCacheBlocks", num_external_tokens: int) -> None:
        if isinstance(self._scheduler, ConsumerScheduler):
            self._scheduler.blocks_allocated(request, blocks.get_block_ids(), num_external_tokens)

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

    def get_loaded_kv_cache_group_ids(self, request: "Request") -> tuple[int, ...]:
        """All: also those whose blocks no prefix cache could find, like the last state of a request."""
        return tuple(range(len(self._kv_cache_config.kv_cache_groups)))

    def request_finished_all_groups(
        self, request: "Request", block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        if isinstance(self._scheduler, ProducerScheduler):
            return self._scheduler.request_finished(request, block_ids), None
        assert self._scheduler is not None
        return False, self._scheduler.request_finished(request)

    # --- worker ---

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        stage, rank = get_pp_group().rank_in_group, get_tensor_model_parallel_rank()
        number = stage * self._vllm_config.parallel_config.tensor_parallel_size + rank
        engine_id = self._kv_transfer_config.engine_id or ""
        layout = layout_of(kv_caches, self._kv_cache_config, self._vllm_config, rank, self._options.pairing)
        parts = gather(number, engine_id, self._options, kv_caches, layout, self._stats)
        self._rank = Rank(parts, parts.producer() if self._produces else parts.consumer())
        self._layers = layout.by_name
        log.info(
            "KV transfer: %s rank %d (stage %d of %d) at %s, "
            "%d blocks of %s, %d layers with pages of %s bytes, over %s",
            self._kv_transfer_config.kv_role,
            number,
            stage + 1,
            layout.stages,
            self._rank.address.control,
            layout.num_blocks,
            " + ".join(f"{group.kind.value} ({group.block_tokens} tokens)" for group in layout.groups),
            len(layout.layers),
            " or ".join(map(str, sorted({layer.page for layer in layout.layers}))),
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
        if isinstance(self._worker, Producer) and self._options.layerwise and layer_name in self._layers:
            self._worker.layer_computed(self._layers[layer_name])  # others share the cache of one that is there

    def wait_for_save(self) -> None:
        if isinstance(self._worker, Producer):
            self._worker.step_computed()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        assert self._worker is not None
        finished = self._worker.take_finished(IDLE_WAIT_S if self._step().idle else 0.0)
        return (finished, None) if self._produces else (None, finished)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        results = super().get_transfer_results(finished_req_ids)
        if isinstance(self._worker, Consumer):
            results.failed_recving = self._worker.take_failed()
        return results

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
            self._stats.blocks_held(self._scheduler.held.blocks, self._scheduler.held.since)
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

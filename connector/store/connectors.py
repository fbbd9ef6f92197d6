"""What vLLM loads (`kv_connector_module_path`) where instances share a store; vLLM's processes alone import this.

`BoundedStoreConnector` is vLLM's own connector to Mooncake's store, with a bound on everything that a request or its
blocks could wait for; an aggregated server has it alone. The others have it beside the streaming connector, in a
`MultiConnector`: vLLM asks for that name in places, and finds the children's classes by name to read their figures.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorRole,
    KVConnectorTransferResults,
    KVConnectorWorkerMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.mooncake.store.connector import MooncakeStoreConnector
from vllm.distributed.kv_transfer.kv_connector.v1.mooncake.store.data import (
    MooncakeLookupResult,
    MooncakeStoreConnectorMetadata,
    MooncakeStoreWorkerMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.mooncake.store.scheduler import MooncakeStoreScheduler
from vllm.distributed.kv_transfer.kv_connector.v1.multi_connector import MultiConnector as VllmMultiConnector
from vllm.v1.attention.backends.utils import NULL_BLOCK_ID

from connector.store.breaker import Breaker
from connector.store.late_client import joining_late
from connector.store.loads import HeldForLoads, LoadBounds, Settled
from connector.store.lookups import Lookups
from connector.store.metrics import StoreMetrics, StoreStepStats
from connector.store.moving.gpu_copies import GpuCopies, staged
from connector.store.saves import affordable
from connector.store.stats import StoreStats
from connector.store.storable import refuse_unstorable
from connector.store.told import LoadedTokens
from connector.vllm_hooks.vllm_log import log_as_vllm
from connector.vllm_hooks.vllm_versions import WithoutSleepMode

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

    from connector.first_token.expected import FirstTokens

FAILURES_IN_A_ROW = 3
COOLDOWN_S = 5.0
# Blocks that wait to be saved are missing to requests: a store that takes nothing keeps at most this part of them.
LARGEST_SHARE_FOR_SAVES = 0.25


@dataclass
class LoadsMetadata(MooncakeStoreWorkerMetadata):
    """Beside the saves that are done: loads that were given up, and those of them that have ended, by request."""

    overdue: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "LoadsMetadata":
        assert isinstance(other, LoadsMetadata)
        super().aggregate(other)
        self.overdue.update(other.overdue)
        self.ended.update(other.ended)
        return self


class BoundedStoreScheduler(MooncakeStoreScheduler):
    """Loads no less than `fewest_tokens`, and saves less where saves do not end; a rank resumes from its last one, so
    the next covers what was left out."""

    lookups: Lookups[MooncakeLookupResult]
    stats: StoreStats
    fewest_tokens = 0

    def get_num_new_matched_tokens(self, request: "Request", num_computed_tokens: int) -> tuple[int | None, bool]:
        if request.num_tokens - num_computed_tokens < self.fewest_tokens:
            return 0, False  # not even asked
        tokens, later = super().get_num_new_matched_tokens(request, num_computed_tokens)
        if tokens and tokens < self.fewest_tokens:
            del self.load_specs[request.request_id]
            return 0, False
        return tokens, later

    def _reference_save_blocks(self, meta: MooncakeStoreConnectorMetadata) -> None:
        # The others that may save have their references already.
        new = [request for request in meta.requests if request.can_save and request.store_job_id is None]
        if new and (pool := self._gpu_block_pool) is not None:
            blocks = [{block for group in request.block_ids for block in group} for request in new]
            waiting = {block for pinned, _ in self._pinned_saves.values() for block in pinned}
            fits = affordable(blocks, waiting, LARGEST_SHARE_FOR_SAVES * len(pool.blocks))
            for request, fitting in zip(new, fits, strict=True):
                request.can_save = fitting and not self.lookups.store_fails
            self.stats.saves_left_out(sum(not request.can_save for request in new))
        super()._reference_save_blocks(meta)


class BoundedStoreConnector(WithoutSleepMode, MooncakeStoreConnector):
    """Options beside vLLM's own: `lookup_timeout` and `load_timeout`, in seconds; `load_min_tokens`."""

    def __init__(self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig") -> None:
        log_as_vllm()
        refuse_unstorable(group.kv_cache_spec for group in kv_cache_config.kv_cache_groups)
        with joining_late():
            super().__init__(vllm_config, role, kv_cache_config)
        options = self._kv_transfer_config.kv_connector_extra_config
        self._pool: BlockPool | None = None
        self.connector_scheduler: MooncakeStoreScheduler | None
        self._settled = Settled()
        self._loaded = LoadedTokens()
        self._stats = StoreStats()
        if role is KVConnectorRole.WORKER:
            self._copies: GpuCopies | None = None
            self._bounds = LoadBounds(float(options["load_timeout"]))
            return
        assert self.connector_scheduler is not None
        self.connector_scheduler.client.close()
        self._held = HeldForLoads(self._hold, self._free)
        scheduler = self.connector_scheduler = BoundedStoreScheduler(vllm_config, kv_cache_config)
        self._lookups = scheduler.lookups = Lookups(
            scheduler.client._lookup,
            MooncakeLookupResult(0),
            float(options["lookup_timeout"]),
            Breaker(FAILURES_IN_A_ROW, COOLDOWN_S),
            Breaker(FAILURES_IN_A_ROW, COOLDOWN_S),
            self._held.any_hangs,
            self._stats,
        )
        scheduler.client, scheduler.stats = self._lookups, self._stats
        scheduler.fewest_tokens = int(options["load_min_tokens"])

    # --- scheduler ---

    def bind_gpu_block_pool(self, gpu_block_pool: "BlockPool") -> None:
        super().bind_gpu_block_pool(gpu_block_pool)
        self._pool = gpu_block_pool

    def update_state_after_alloc(self, request: "Request", blocks: "KVCacheBlocks", num_external_tokens: int) -> None:
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        if num_external_tokens:
            of_all_groups = {block for group in blocks.get_block_ids() for block in group} - {NULL_BLOCK_ID}
            self._held.begins(request.request_id, of_all_groups)
            self._loaded.begins(request.request_id, num_external_tokens)

    def update_connector_output(self, connector_output: "KVConnectorOutput") -> None:
        super().update_connector_output(connector_output)
        assert self.connector_scheduler is not None
        meta = connector_output.kv_connector_worker_meta
        overdue, ended = (meta.overdue, meta.ended) if isinstance(meta, LoadsMetadata) else (Counter(), Counter())
        failed = {request_id for request_id in connector_output.failed_recving if request_id in self._held}
        failed |= self._held.of_blocks(connector_output.invalid_block_ids)
        for request_id in failed:
            if not self._lookups.has_given_up(request_id):  # it may be reported twice
                self._stats.load_ended("late" if overdue[request_id] else "failed", self._loaded.of(request_id))
            self._lookups.load_failed(request_id)
            self._loaded.failed(request_id)
            if request_id not in self.connector_scheduler._unfinished_request_ids:  # aborted meanwhile
                self._lookups.discard(request_id)
        finished = connector_output.finished_recving or set()
        for request_id in finished - failed:
            # Its failure may be a step old.
            if request_id in self._held and not self._lookups.has_given_up(request_id):
                self._stats.load_ended("loaded", self._loaded.of(request_id))
                self._lookups.load_succeeded()
        self._held.settle(finished, overdue, ended)

    def request_finished_all_groups(
        self, request: "Request", block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        keeps_blocks, told = super().request_finished_all_groups(request, block_ids)
        of_store = self._loaded.ended(request.request_id, request.kv_transfer_params)
        return keeps_blocks, {**(told or {}), **of_store} if of_store else told

    def _hold(self, blocks: Sequence[int]) -> None:
        assert self._pool is not None
        self._pool.touch([self._pool.blocks[block] for block in blocks])

    def _free(self, blocks: Sequence[int]) -> None:
        assert self._pool is not None
        self._pool.free_blocks(self._pool.blocks[block] for block in blocks)

    # --- worker ---

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        super().register_kv_caches(kv_caches)
        assert self.connector_worker is not None
        caches = (each if isinstance(each, torch.Tensor) else each[0] for each in kv_caches.values())
        client, device = self.connector_worker.store, next(caches).device
        if device.type == "cuda" and not client.over_rdma:
            self._copies = GpuCopies(device)
            way, self._pinned = staged(self._copies)
            if client.register_buffer(self._pinned.data_ptr(), self._pinned.nbytes) == 0:
                client.go(way)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, MooncakeStoreConnectorMetadata)
        for request in metadata.requests:
            if request.load_spec is not None and request.load_spec.can_load:
                self._bounds.begun(request.req_id)
                if self._copies is not None:
                    self._copies.follow()
        super().start_load_kv(forward_context, **kwargs)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        results = super().get_transfer_results(finished_req_ids)
        self._settled = settled = self._bounds.settle(results.finished_recving)
        return KVConnectorTransferResults(
            finished_sending=results.finished_sending,
            finished_recving=settled.finished,
            failed_recving=(results.failed_recving - settled.ended) | settled.overdue,
        )

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        saves = super().build_connector_worker_meta()
        settled, self._settled = self._settled, Settled()
        if saves is None and not settled.overdue and not settled.ended:
            return None
        completed = saves.completed_saves if isinstance(saves, MooncakeStoreWorkerMetadata) else {}
        return LoadsMetadata(completed, Counter(settled.overdue), Counter(settled.ended))

    # --- both ---

    def get_kv_connector_stats(self) -> StoreStepStats | None:
        if self.connector_scheduler is not None:
            self._lookups.tell_breakers()
            data = self._stats.take()
        else:
            of_rank = super().get_kv_connector_stats()
            data = of_rank.data if of_rank is not None else None
        return StoreStepStats(data=data) if data else None

    # --- what vLLM asks the class, also in its API server ---

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> StoreStepStats:
        return StoreStepStats(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: Any
    ) -> StoreMetrics:
        return StoreMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)


class MultiConnector(WithoutSleepMode, VllmMultiConnector):
    """The streaming connector and the store's, side by side."""

    @property
    def first_tokens(self) -> "FirstTokens | None":
        """Of the streaming connector, for `first_token/scheduler.py`."""
        found = (getattr(child, "first_tokens", None) for child in self.sub_connectors)
        return next((each for each in found if each is not None), None)


def _register(name: str, module: str) -> None:
    if name not in KVConnectorFactory._registry:  # vLLM may import this module under its path more than once
        KVConnectorFactory.register_connector(name, module, name)


_register("StreamingMooncakeConnector", "connector.vllm_hooks.kv_connector")
_register("BoundedStoreConnector", __name__)

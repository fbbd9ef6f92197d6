"""The scheduler's side of the connector: which requests transfer, and what the workers must know of them at each step.

The producer's side follows its requests chunk by chunk. The consumer's side registers a request's blocks with the
producer as soon as they are allocated, from here, because a worker hears of them only at the next forward pass.
"""

import hashlib
import logging
import queue
from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from connector.cache.parallel import Source, sources
from connector.control.messages import Cancel, Done, Message, Register
from connector.transfer.steps import (
    Chunk,
    ConsumerStep,
    Load,
    ProducerStep,
    Queued,
    RankAddress,
    Released,
    sum_of_shares,
)

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

log = logging.getLogger(__name__)

# What the answer's `kv_transfer_params` tell of a transfer, beside its number of tokens; see `Done`.
FACTS = ("transfer_id", "bytes", "early_bytes", "pieces", "seconds", "exposed_seconds", "transport")


class ProducerParams(msgspec.Struct, frozen=True):
    """`kv_transfer_params` of a prefill request."""

    transfer_id: str
    do_remote_decode: bool = False


class PeerParams(msgspec.Struct, frozen=True):
    """The producer's `kv_transfer` record, as its launcher put it into etcd."""

    engine_id: str
    control: list[str]


class ConsumerParams(msgspec.Struct, frozen=True):
    """`kv_transfer_params` of a decode request."""

    transfer_id: str
    producer: PeerParams
    do_remote_prefill: bool = False


def _params(request: "Request", kind: type[Any], flag: str) -> Any:
    """The request's transfer parameters, None for a request without; unusable ones are logged and count as none."""
    raw = request.kv_transfer_params
    if not raw or not raw.get(flag):
        return None
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        log.warning("request %s: kv_transfer_params ignored: %s", request.request_id, error)
        return None


def digest_of_prompt(request: "Request") -> str:
    """By which the two sides know that theirs are the same tokens; a prompt of embeddings has none to compare."""
    tokens = array("q", request.prompt_token_ids or ())
    return hashlib.blake2b(tokens.tobytes(), digest_size=16).hexdigest()


class ProducerScheduler:
    """Follows prefill requests that a consumer waits for."""

    def __init__(self) -> None:
        self._transfers: dict[str, tuple[Request, str]] = {}  # request id -> request, transfer id
        self._held: dict[str, int] = {}  # ended request id -> blocks that its transfer still needs
        self._released: list[Released] = []
        self._queued: list[Queued] = []

    def on_new_request(self, request: "Request") -> None:
        params = _params(request, ProducerParams, "do_remote_decode")
        if params is not None:
            self._transfers[request.request_id] = (request, params.transfer_id)
            self._queued.append(Queued(params.transfer_id, request.request_id, digest_of_prompt(request)))

    def build_step(self, output: "SchedulerOutput") -> ProducerStep:
        blocks = output.kv_connector_block_state
        chunks = []
        for request_id, tokens in output.num_scheduled_tokens.items():
            if request_id not in self._transfers:
                continue
            request, transfer_id = self._transfers[request_id]
            block_ids = blocks.get_block_ids(request_id) if blocks is not None else None
            assert block_ids is not None, f"vLLM scheduled {request_id} without its block table"
            # num_computed_tokens is still the value before this step (vLLM advances it after this call).
            step_end = request.num_computed_tokens + tokens
            chunks.append(
                Chunk(transfer_id, request_id, request.num_prompt_tokens, list(block_ids[0]), step_end, tokens)
            )
        # All of them: one that was aborted since is no longer among our transfers, but its blocks may be written out.
        preempted = list(output.preempted_req_ids or ())
        released, self._released = self._released, []
        queued, self._queued = self._queued, []
        return ProducerStep(output.total_num_scheduled_tokens == 0, chunks, preempted, released, queued)

    def request_finished(self, request: "Request", block_ids: list[int]) -> bool:
        """True: keep the blocks until the workers have reported the request as sent, which they always do."""
        if request.request_id not in self._transfers:
            return False
        _, transfer_id = self._transfers.pop(request.request_id)
        complete = request.num_computed_tokens >= request.num_prompt_tokens
        self._released.append(Released(transfer_id, request.request_id, complete))
        self._held[request.request_id] = len(block_ids)
        return True

    def sent(self, request_ids: set[str]) -> None:
        """The workers' word on which ended requests' blocks are free."""
        for request_id in request_ids:
            self._held.pop(request_id, None)

    @property
    def blocks_held(self) -> int:
        """Blocks of ended requests that are kept only for their transfers."""
        return sum(self._held.values())


class ConsumerScheduler:
    """Registers decode requests with their producers and tells the workers what to wait for.

    `total_heads`: KV heads of the whole model. `checksum`: let producers prove what they wrote. `publish` gets each
    transfer's facts at its end.
    """

    def __init__(
        self,
        fingerprint: str,
        block_size: int,
        total_heads: int,
        checksum: bool,
        send: Callable[[str, Message], None],
        publish: Callable[[dict[str, Any]], None],
    ) -> None:
        self._fingerprint = fingerprint
        self._block_size = block_size
        self._total_heads = total_heads
        self._checksum = checksum
        self._send = send
        self._publish = publish
        self._ranks: list[RankAddress] = []
        self._asked: dict[str, ConsumerParams] = {}  # request id -> a transfer not yet registered
        self._registered: dict[str, Load] = {}  # request id -> a transfer whose end is awaited
        self._abandoned: set[str] = set()  # those of them whose request was aborted
        self._facts: dict[str, list[Done]] = {}  # request id -> one for each rank whose part has arrived whole
        self._tokens: dict[str, int] = {}  # request id -> tokens that came, or shall come, from the producer
        self._held: dict[str, int] = {}  # request id -> blocks that await their KV
        self._loads: list[Load] = []
        self._aborted: list[str] = []
        self._back: queue.SimpleQueue[str] = queue.SimpleQueue()

    def set_ranks(self, ranks: list[RankAddress]) -> None:
        self._ranks = ranks

    def set_segments(self, rank: int, segments: dict[str, str]) -> None:
        """The rank's memory is reached under other names from now on."""
        self._ranks[rank] = replace(self._ranks[rank], segments=segments)

    def on_new_request(self, request: "Request") -> None:
        params = _params(request, ConsumerParams, "do_remote_prefill")
        if params is None:
            return
        try:
            sources(len(self._ranks), len(params.producer.control), self._total_heads)
        except ValueError as error:
            name = params.producer.engine_id
            log.warning("request %s: computed here, because of producer %s: %s", request.request_id, name, error)
            return
        taken = {asked.transfer_id for asked in self._asked.values()}
        taken |= {load.transfer_id for load in self._registered.values()}
        if params.transfer_id in taken:
            # With n > 1 vLLM makes several requests of one, and one more when a client leaves.
            log.info("request %s: transfer %s belongs to another request", request.request_id, params.transfer_id)
            return
        self._asked[request.request_id] = params

    def tokens_from_producer(self, request: "Request", computed_here: int) -> tuple[int, bool]:
        """Tokens of the prompt that will come from the producer beyond the `computed_here` already cached."""
        if request.request_id not in self._asked:
            return 0, False
        count = request.num_prompt_tokens - computed_here
        return count, count > 0

    def blocks_allocated(self, request: "Request", block_ids: list[int], external_tokens: int) -> None:
        """Register the blocks that await `external_tokens`; the blocks before them hold the local prefix hit."""
        params = self._asked.pop(request.request_id, None)
        if params is None:
            return
        if external_tokens == 0:  # e.g. prompt logprobs: vLLM computes the whole prompt itself
            self._cancel(params)
            return
        first = (request.num_prompt_tokens - external_tokens) // self._block_size
        wanted = list(block_ids[first : -(-request.num_prompt_tokens // self._block_size)])
        plan = sources(len(self._ranks), len(params.producer.control), self._total_heads)
        prompt = digest_of_prompt(request)
        registrations = [
            {source.rank: self._registration(params, rank, source, first, wanted, prompt) for source in own}
            for rank, own in enumerate(plan)
        ]
        load = Load(params.transfer_id, request.request_id, wanted, params.producer.control, plan, registrations)
        for address, registration in load.addressed():
            self._send(address, registration)
        self._registered[request.request_id] = load
        self._tokens[request.request_id] = external_tokens
        self._held[request.request_id] = len(wanted)
        self._loads.append(load)

    def peer_back(self, address: str) -> None:
        """The connection to that producer's rank was broken, and registrations with it. From any thread."""
        self._back.put(address)

    def _registration(
        self, params: ConsumerParams, rank: int, source: Source, first_block: int, block_ids: list[int], prompt: str
    ) -> Register:
        ours = self._ranks[rank]
        first_head = source.first_head if source.heads else ours.layout.first_head
        return Register(
            transfer_id=params.transfer_id,
            engine_id=params.producer.engine_id,
            fingerprint=self._fingerprint,
            reply_to=ours.control,
            rank=rank,
            shares=source.shares,
            segments=ours.segments,
            host_identity=ours.host_identity,
            layer_addresses=[
                ours.layout.address(layer, 0, first_head) for layer in range(len(ours.layout.layer_addresses))
            ],
            block_stride=ours.layout.block_stride,
            first_head=source.first_head,
            heads=source.heads,
            first_block=first_block,
            block_ids=block_ids,
            prompt=prompt,
            checksum=self._checksum,
        )

    @property
    def blocks_held(self) -> int:
        """Blocks that are allocated and await their KV."""
        return sum(self._held.values())

    def build_step(self, output: "SchedulerOutput") -> ConsumerStep:
        while not self._back.empty():  # steps go on while a transfer is awaited
            self._register_again_with(self._back.get())
        loads, self._loads = self._loads, []
        aborted, self._aborted = self._aborted, []
        return ConsumerStep(output.total_num_scheduled_tokens == 0, loads, aborted)

    def _register_again_with(self, back: str) -> None:
        for request_id, load in self._registered.items():
            if request_id not in self._abandoned:
                for address, registration in load.addressed():
                    if address == back:
                        self._send(address, registration)

    def loaded(self, request_ids: set[str], facts: dict[str, list[Done]]) -> None:
        """The workers' word on which requests' transfers are over, and the facts of those that arrived."""
        for request_id, parts in facts.items():  # ranks may end in different steps
            self._facts.setdefault(request_id, []).extend(parts)
        for request_id in request_ids:
            registered = self._registered.pop(request_id, None)
            self._held.pop(request_id, None)
            if request_id in self._abandoned:  # nobody will ask for its facts any more
                self._abandoned.remove(request_id)
                self._facts.pop(request_id, None)
            elif registered is not None:
                nothing_usable = {"transfer_id": registered.transfer_id, "bytes": 0, "tokens": 0}
                self._publish(self._facts_of(request_id) or nothing_usable)

    def request_finished(self, request: "Request") -> dict[str, Any] | None:
        """Facts of the request's transfer for the client's answer. An aborted wait is passed on to the workers."""
        answer = self._facts_of(request.request_id)
        self._facts.pop(request.request_id, None)
        self._tokens.pop(request.request_id, None)
        asked = self._asked.pop(request.request_id, None)
        if asked is not None:  # aborted before its blocks were allocated
            self._cancel(asked)
        registered = self._registered.get(request.request_id)
        if registered is not None:  # its transfer id is taken until the workers report the end
            self._abandoned.add(request.request_id)
            self._aborted.append(registered.transfer_id)
        return answer

    def _facts_of(self, request_id: str) -> dict[str, Any] | None:
        parts = self._facts.get(request_id, [])
        if not parts or len(parts) < len(self._ranks):  # a rank's part was lost, and the rest recomputed
            return None
        facts = sum_of_shares(parts)
        return {name: getattr(facts, name) for name in FACTS} | {"tokens": self._tokens.get(request_id, 0)}

    def _cancel(self, params: ConsumerParams) -> None:
        for control in params.producer.control:
            self._send(control, Cancel(params.transfer_id, self._ranks[0].control))

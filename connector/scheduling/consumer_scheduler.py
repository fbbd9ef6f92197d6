"""The scheduler's side of a consumer: it registers a request's blocks with the producer as soon as they are allocated.

From here and not from a worker, because a worker hears of them only at the next forward pass.
"""

import logging
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from connector.cache.heads import sources
from connector.cache.held_blocks import HeldBlocks
from connector.cache.layout import CacheGroup, KVLayout, left_out_tokens
from connector.cache.stages import over_stages
from connector.control.messages import Cancel, Done, GroupBlocks, LayerPlace, Message, Register
from connector.first_token.expected import Expected, FirstTokens
from connector.scheduling.request_params import ConsumerParams, PeerParams, digest_of_prompt, params_of
from connector.scheduling.steps import ConsumerStep, Load, RankAddress, sum_of_shares

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

log = logging.getLogger(__name__)

# What the answer's `kv_transfer_params` tell of a transfer, beside its number of tokens; see `Done`.
FACTS = ("transfer_id", "bytes", "early_bytes", "pieces", "seconds", "exposed_seconds", "transport")


@dataclass(frozen=True)
class Asked:
    """What every rank of the producer is asked for one request. `prompt`, `first_token_to`: as in `Register`."""

    params: ConsumerParams
    tokens: int
    groups: list[GroupBlocks]
    prompt: str
    first_token_to: str


@dataclass(frozen=True)
class Part:
    """What one rank of the producer writes into one of ours; the same for every request. `shares`: see `Register`."""

    rank: int
    shares: int
    layers: list[LayerPlace]


def _places(layout: KVLayout, heads: dict[int, range]) -> list[LayerPlace]:
    """Args: heads: which of them are meant, by how many heads a layer has."""
    return [
        LayerPlace(
            name=layer.name,
            address=layer.head_address(own.start),
            block_stride=layer.block_stride,
            first_head=own.start,
            heads=len(own),
            cache=layer.cache,
        )
        for layer in layout.layers
        if (own := heads.get(layer.all_heads))
    ]


class ConsumerScheduler:
    """Registers decode requests with their producers and tells the workers what to wait for.

    `checksum`: let producers prove what they wrote. `publish` gets each transfer's facts at its end.
    """

    def __init__(
        self,
        checksum: bool,
        send: Callable[[str, Message], None],
        publish: Callable[[dict[str, Any]], None],
        first_tokens: FirstTokens | None = None,
    ) -> None:
        self._checksum = checksum
        self._first_tokens = first_tokens
        self._send = send
        self._publish = publish
        self._ranks: list[RankAddress] = []
        self._left_out = 0
        self._plans: dict[tuple[int, int], list[list[Part]]] = {}  # by how many ranks and stages the producer has
        self._asked: dict[str, ConsumerParams] = {}  # request id -> a transfer not yet registered
        self._registered: dict[str, Load] = {}  # request id -> a transfer whose end is awaited
        self._abandoned: set[str] = set()  # those of them whose request was aborted
        self._facts: dict[str, list[Done]] = {}  # request id -> one for each rank whose part has arrived whole
        self._tokens: dict[str, int] = {}  # request id -> tokens that came, or shall come, from the producer
        self.held = HeldBlocks()  # those that are allocated and await their KV
        self._loads: list[Load] = []
        self._aborted: list[str] = []
        self._back: queue.SimpleQueue[str] = queue.SimpleQueue()

    def set_ranks(self, ranks: list[RankAddress]) -> None:
        """What the workers have told of themselves; comes once, before any request."""
        self._ranks = ranks
        self._left_out = left_out_tokens((group.kind for group in self._groups), ranks[0].layout.lookahead)

    def set_segments(self, rank: int, segments: dict[str, str]) -> None:
        """The rank's memory is reached under other names from now on."""
        self._ranks[rank] = replace(self._ranks[rank], segments=segments)

    def on_new_request(self, request: "Request") -> None:
        params = params_of(request, ConsumerParams, "do_remote_prefill")
        if params is None:
            return
        try:
            self._parts(params.producer)
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
        if any(computed_here % group.block_tokens for group in self._groups):
            return 0, False  # the block in which they end may be shared with other requests: nobody may write into it
        count = request.num_prompt_tokens - self._left_out - computed_here
        return max(0, count), count > 0

    def blocks_allocated(self, request: "Request", tables: Sequence[Sequence[int]], external_tokens: int) -> None:
        """Register the blocks that await `external_tokens`; the blocks before them hold the local prefix hit.

        Args: tables: the request's block table in each group.
        """
        params = self._asked.pop(request.request_id, None)
        if params is None:
            return
        if external_tokens == 0:  # e.g. prompt logprobs: vLLM computes the whole prompt itself
            self._cancel(params)
            return
        tokens = request.num_prompt_tokens - self._left_out
        wanted = [
            GroupBlocks(*group.wanted(table, tokens, tokens - external_tokens))
            for group, table in zip(self._groups, tables, strict=True)
        ]
        prompt = digest_of_prompt(request)
        first_token_to = ""
        if self._first_tokens is not None:
            engine_id = params.producer.engine_id
            expected = Expected(request.request_id, params.transfer_id, engine_id, prompt, external_tokens)
            first_token_to = self._first_tokens.expect(request, expected, bool(self._left_out))
        asked = Asked(params, tokens, wanted, prompt, first_token_to)
        registrations = [
            {part.rank: self._registration(asked, rank, part) for part in own}
            for rank, own in enumerate(self._parts(params.producer))
        ]
        blocks = tuple(group.block_ids for group in wanted)
        load = Load(
            params.transfer_id, request.request_id, external_tokens, blocks, params.producer.control, registrations
        )
        for address, registration in load.addressed():
            self._send(address, registration)
        self._registered[request.request_id] = load
        self._tokens[request.request_id] = external_tokens
        self.held.add(request.request_id, sum(map(len, blocks)))
        self._loads.append(load)

    def peer_back(self, address: str) -> None:
        """The connection to that producer's rank was broken, and registrations with it. From any thread."""
        self._back.put(address)

    @property
    def _groups(self) -> tuple[CacheGroup, ...]:
        return self._ranks[0].layout.groups

    def _parts(self, producer: PeerParams) -> list[list[Part]]:
        """By our rank, who fills it. Raises: ValueError: ranks over which heads or stages cannot be spread."""
        theirs, their_stages = len(producer.control), producer.pipeline_parallel_size
        if theirs % their_stages:
            raise ValueError(f"{theirs} ranks are no pipeline of {their_stages} stages")
        if (theirs, their_stages) not in self._plans:
            layouts = [rank.layout for rank in self._ranks]
            stages = layouts[0].stages
            totals = {layer.all_heads for layout in layouts for layer in layout.layers}
            plan = over_stages(sources(len(layouts) // stages, theirs // their_stages, totals), stages, their_stages)
            self._plans[theirs, their_stages] = [
                [Part(source.rank, source.shares, _places(layout, source.heads)) for source in own]
                for layout, own in zip(layouts, plan, strict=True)
            ]
        return self._plans[theirs, their_stages]

    def _registration(self, asked: Asked, rank: int, part: Part) -> Register:
        ours = self._ranks[rank]
        return Register(
            transfer_id=asked.params.transfer_id,
            engine_id=asked.params.producer.engine_id,
            fingerprint=ours.layout.facts,
            reply_to=ours.control,
            rank=rank,
            shares=part.shares,
            segments=ours.segments,
            host_identity=ours.host_identity,
            tokens=asked.tokens,
            groups=asked.groups,
            layers=part.layers,
            prompt=asked.prompt,
            checksum=self._checksum,
            first_token_to=asked.first_token_to,
            timeline=asked.params.timeline,
        )

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
            self.held.remove(request_id)
            if request_id in self._abandoned:  # nobody will ask for its facts any more
                self._abandoned.remove(request_id)
                self._facts.pop(request_id, None)
            elif registered is not None:
                arrived = self._facts_of(request_id)
                if self._first_tokens is not None:
                    tokens = [part.first_token for part in self._facts.get(request_id, [])]
                    token = next((token for token in tokens if token is not None), None)
                    self._first_tokens.load_over(registered.transfer_id, request_id, token, arrived is None)
                nothing_usable = {"transfer_id": registered.transfer_id, "bytes": 0, "tokens": 0}
                self._publish(arrived | self._timeline_of(request_id) if arrived else nothing_usable)

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
            if self._first_tokens is not None:
                self._first_tokens.forget(registered.transfer_id, request.request_id)
            self._abandoned.add(request.request_id)
            self._aborted.append(registered.transfer_id)
        return answer

    def _facts_of(self, request_id: str) -> dict[str, Any] | None:
        parts = self._facts.get(request_id, [])
        if not parts or len(parts) < len(self._ranks):  # a rank's part was lost, and the rest recomputed
            return None
        facts = sum_of_shares(parts)
        tokens = {"tokens": self._tokens.get(request_id, 0)}
        if self._left_out:  # neither moved nor held: who counts what was held must know
            tokens["left_out"] = self._left_out
        return {name: getattr(facts, name) for name in FACTS} | tokens

    def _timeline_of(self, request_id: str) -> dict[str, str]:
        """For the proxy, which asked, and not in the client's answer."""
        told = sum_of_shares(self._facts[request_id]).timeline
        return {"timeline": told} if told else {}

    def _cancel(self, params: ConsumerParams) -> None:
        for control in params.producer.control:
            self._send(control, Cancel(params.transfer_id, self._ranks[0].control))

"""The scheduler's side of a producer: which requests are moved, and what the workers must know of them at each step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from connector.cache.held_blocks import HeldBlocks
from connector.cache.layout import NULL_BLOCK, Kind, left_out_tokens
from connector.first_token.sampled import SampledTokens
from connector.scheduling.request_params import ProducerParams, digest_of_prompt, leave_out, params_of
from connector.scheduling.steps import Chunk, ProducerStep, Queued, Released

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request


class ProducerScheduler:
    """Follows prefill requests that a consumer waits for.

    `left_out`: tokens at a prompt's end that are not even computed. `kept_back`: those that are, and are not moved.
    `first_tokens`: where both are 0; else what is sampled follows another prompt than what is moved.
    """

    def __init__(self, left_out: int, kept_back: int = 0, first_tokens: SampledTokens | None = None) -> None:
        self._left_out = left_out
        self._kept_back = kept_back
        self._first_tokens = None if left_out or kept_back else first_tokens
        self._transfers: dict[str, tuple[Request, str]] = {}  # request id -> request, transfer id
        self.held = HeldBlocks()  # of ended requests
        self._released: list[Released] = []
        self._queued: list[Queued] = []

    @classmethod
    def of(cls, kinds: Sequence[Kind], lookahead: int, first_tokens: SampledTokens | None = None) -> Self:
        """Of these groups, and a draft that reads so many tokens ahead.

        With full attention alone a prompt is computed to its end: a draft's modules then read what follows behind the
        part that is moved, and not what they would guess of it.
        """
        left_out = left_out_tokens(kinds, lookahead)
        computed_to_its_end = not left_out_tokens(kinds)
        return cls(0, left_out, first_tokens) if computed_to_its_end else cls(left_out, 0, first_tokens)

    def on_new_request(self, request: "Request") -> None:
        params = params_of(request, ProducerParams, "do_remote_decode")
        if params is not None:
            self._transfers[request.request_id] = (request, params.transfer_id)
            self._queued.append(Queued(params.transfer_id, request.request_id, digest_of_prompt(request)))
            leave_out(request, self._left_out)
            if self._first_tokens is not None:
                self._first_tokens.await_of(request, params.transfer_id)

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
            tables = tuple(list(table) for table in block_ids)
            moved = max(1, request.num_prompt_tokens - self._kept_back)
            chunks.append(Chunk(transfer_id, request_id, moved, tables, step_end, tokens))
        # All of them: one that was aborted since is no longer among our transfers, but its blocks may be written out.
        preempted = list(output.preempted_req_ids or ())
        released, self._released = self._released, []
        queued, self._queued = self._queued, []
        sampled = self._first_tokens.take() if self._first_tokens is not None else []
        return ProducerStep(output.total_num_scheduled_tokens == 0, chunks, preempted, released, queued, sampled)

    def request_finished(self, request: "Request", block_ids: Sequence[Sequence[int]]) -> bool:
        """True: keep the blocks until the workers have reported the request as sent, which they always do."""
        if request.request_id not in self._transfers:
            return False
        _, transfer_id = self._transfers.pop(request.request_id)
        if self._first_tokens is not None:
            self._first_tokens.ended(request.request_id)
        complete = request.num_computed_tokens >= request.num_prompt_tokens
        self._released.append(Released(transfer_id, request.request_id, complete))
        self.held.add(request.request_id, sum(block != NULL_BLOCK for table in block_ids for block in table))
        return True

    def sent(self, request_ids: set[str]) -> None:
        """The workers' word on which ended requests' blocks are free."""
        for request_id in request_ids:
            self.held.remove(request_id)

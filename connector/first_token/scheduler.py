"""vLLM's scheduler (0.32, 0.33) of a consumer, which takes the first token of a transferred prompt as given.

vLLM itself steps back one token once a whole prompt has been loaded, computes that again and samples. With the
producer's token appended, the loaded prompt is no longer the whole request (`_update_waiting_for_remote_kv`): the next
step computes the second token, as after a preemption, and the first is out before the cache has arrived.

Given as `--scheduler-cls`. Detokenizing, stop strings, parsers and `usage` stay where they are: behind the engine.
"""

import time
from typing import TYPE_CHECKING, Any, cast

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.sched.utils import check_stop
from vllm.v1.engine import EngineCoreEventType, EngineCoreOutput, EngineCoreOutputs
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

from connector.first_token import causes
from connector.first_token.expected import Expected, FirstTokens

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import ModelRunnerOutput


def scheduler(*, vllm_config: Any, **more: Any) -> Scheduler:
    """What `--scheduler-cls` names: vLLM makes its scheduler by a call."""
    kind = AsyncTakingScheduler if vllm_config.scheduler_config.async_scheduling else TakingScheduler
    return kind(vllm_config=vllm_config, **more)


class _TakesFirstTokens(Scheduler):
    """In front of one of vLLM's schedulers; with another connector, or a producer's, it does nothing."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._first_tokens = cast("FirstTokens | None", getattr(self.connector, "first_tokens", None))
        # Requests whose first token the model runner (V1) takes for the last of the prompt.
        self._with_prompt: set[str] = set()
        if self._first_tokens is not None:
            self._first_tokens.take_with(self.engine().why_not)

    def engine(self) -> causes.Engine:
        return causes.Engine(
            counts_output=self.use_v2_model_runner,
            speculates=self.num_spec_tokens > 0,
            returns_sampling_mask=self.return_sampling_mask,
            reasons=self.structured_output_manager.reasoner_cls is not None,
            has_processors=bool(self.vllm_config.model_config.logits_processors),
        )

    def schedule(self, *args: Any, **more: Any) -> "SchedulerOutput":
        output = super().schedule(*args, **more)
        if not self._with_prompt:
            return output
        self._with_prompt &= self.requests.keys()
        for new in output.scheduled_new_reqs:
            if new.req_id in self._with_prompt:
                # What was sampled since then is the runner's own output: here it has computed nothing of it yet.
                new.prompt_token_ids = list(self.requests[new.req_id].all_token_ids)
        cached = output.scheduled_cached_reqs
        for index, request_id in enumerate(cached.req_ids):
            if request_id in self._with_prompt:
                cached.num_output_tokens[index] -= 1
        return output

    def update_from_output(
        self, scheduler_output: "SchedulerOutput", model_runner_output: "ModelRunnerOutput"
    ) -> dict[int, EngineCoreOutputs]:
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(scheduler_output, model_runner_output)
        if self._first_tokens is not None:
            for expected in self._first_tokens.here():
                self._settle(self._first_tokens, expected, outputs)
        return outputs

    def _settle(self, first_tokens: FirstTokens, expected: Expected, outputs: dict[int, EngineCoreOutputs]) -> None:
        """Takes the token into `outputs`, leaves the request to the next steps, or waits for the load's end."""
        request = self.requests.get(expected.request_id)
        if request is None or request.status is not RequestStatus.WAITING_FOR_REMOTE_KVS:
            first_tokens.settled(expected, causes.NONE_CAME)
            return
        if expected.token is None:
            first_tokens.settled(expected, causes.LOAD_FAILED if expected.load_failed else causes.NONE_CAME)
            return
        over = request.request_id in self.finished_recving_kv_req_ids
        last = causes.is_the_last(request, expected.token, self.max_model_len)
        room = last or self._has_room_for_one_more(request)
        if not over and (last or not room):
            return  # of the last nobody would use the blocks that are still being written; room may come until then
        cause = self._why_not_this(request, expected.token) or ("" if room else causes.NO_ROOM)
        first_tokens.settled(expected, cause)
        if not cause:
            output = self._first_output(request, expected.token)
            outputs.setdefault(request.client_index, EngineCoreOutputs()).outputs.append(output)

    def _has_room_for_one_more(self, request: Request) -> bool:
        """Whether one more token fits beside all that was promised to others.

        vLLM has kept room for the prompt, of which it would compute the last token in place. A token behind a full
        block needs another one, and a request that waits can neither be preempted nor overtaken: in a cache full of
        such, with nothing running, all would wait for ever.
        """
        groups = self.kv_cache_config.kv_cache_groups
        more = sum(request.num_tokens % group.kv_cache_spec.block_size == 0 for group in groups)
        free: int = self.kv_cache_manager.block_pool.get_num_free_blocks()
        return not more or more + self._inflight_prefill_reserved_blocks() <= free

    def _why_not_this(self, request: Request, token: int) -> str:
        params = request.sampling_params
        assert params is not None
        if not 0 <= token < self.vllm_config.model_config.get_vocab_size():
            return causes.NO_TOKEN_OF_THE_MODEL
        if causes.stops_too_early(params, token):
            return causes.STOP_TOO_EARLY
        structured = request.structured_output_request
        if structured is not None:
            grammar = structured.grammar
            assert isinstance(grammar, StructuredOutputGrammar)  # before it was ready nothing was registered
            if not grammar.validate_tokens([token]):
                return causes.NOT_IN_THE_GRAMMAR
        return ""

    def _first_output(self, request: Request, token: int) -> EngineCoreOutput:
        """As `update_from_output` makes them of tokens that were sampled here."""
        if self.log_stats:  # else vLLM's time of the prefill would end before it began
            request.record_event(EngineCoreEventType.SCHEDULED, time.monotonic())
        if not self.use_v2_model_runner:
            self._with_prompt.add(request.request_id)
        request.append_output_token_ids(token)
        stopped = check_stop(request, self.max_model_len)
        if not self.structured_output_manager.accept_tokens(request, [token]):
            raise RuntimeError(f"{request.request_id}: the grammar refuses token {token}, which it has found valid")
        prefill = request.take_prefill_stats()
        if prefill is not None:
            prefill.finalize(self.kv_cache_manager.estimate_cached_tokens(request))
        finish_reason, transfer_facts = None, None
        if stopped:
            finish_reason = request.get_finished_reason()
            transfer_facts = self._end(request)
        return EngineCoreOutput(
            request_id=request.request_id,
            new_token_ids=[token],
            finish_reason=finish_reason,
            stop_reason=request.stop_reason,
            events=request.take_events(),
            prefill_stats=prefill,
            kv_transfer_params=transfer_facts,
            trace_headers=request.trace_headers,
        )

    def _end(self, request: Request) -> dict[str, Any] | None:
        """Its load is over: its blocks are freed at once."""
        self.waiting.remove_requests([request])
        self.kv_holding_waiting.remove_requests([request])
        self.deferred_waiting.discard(request)
        self.finished_recving_kv_req_ids.discard(request.request_id)
        self.failed_recving_kv_req_ids.discard(request.request_id)
        transfer_facts: dict[str, Any] | None = self._free_request(request)[0]
        return transfer_facts


class TakingScheduler(_TakesFirstTokens):
    pass


class AsyncTakingScheduler(_TakesFirstTokens, AsyncScheduler):
    pass

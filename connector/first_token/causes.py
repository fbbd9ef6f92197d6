"""Why a consumer computes a request's first token itself, though its producer has sampled one.

The producer samples with the client's parameters, except those for the rest of the answer (its length, its log
probabilities, streaming). So its token will do, unless more than the token is wanted, the parameters forbid it as the
first of a longer answer, or vLLM's model runner could not count it as one of the answer. Each cause is a label of
`pd_kv_first_tokens_total`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

LOG_PROBABILITIES = "log probabilities"
WINDOWS_OR_STATE = "windows or state"  # the producer leaves out the prompt's last token, and samples what follows that
EMBEDDINGS = "prompt embeddings"
SESSION = "streaming input"
SPECULATION = "speculative decoding"
SAMPLING_MASK = "sampling mask"
REASONING_GRAMMAR = "grammar after reasoning"
PENALTIES, SEED, MIN_TOKENS, BAD_WORDS, BUDGET = "penalties", "seed", "min_tokens", "bad_words", "thinking budget"
PROCESSORS = "logits processors"

STOP_TOO_EARLY = "stop token under min_tokens"
NO_TOKEN_OF_THE_MODEL = "no token of the model"
NOT_IN_THE_GRAMMAR = "refused by the grammar"
NO_ROOM = "no free block"
LOAD_FAILED = "load failed"
NONE_CAME = "none came"


@dataclass(frozen=True)
class Engine:
    """What of the consumer's vLLM decides. `counts_output`: its model runner tells a request's prompt from its answer
    when both come with the first step (Model Runner V2). V1 takes all for prompt: what depends on the tokens of the
    answer or on how many were sampled would begin one token late."""

    counts_output: bool
    speculates: bool = False
    returns_sampling_mask: bool = False
    reasons: bool = False  # it has a reasoning parser, which says where a grammar begins
    has_processors: bool = False  # of the operator's own, which may look at the answer

    def why_not(self, request: "Request") -> str:
        """Known before any token is; empty where the producer's will do."""
        params = request.sampling_params
        if params is None or request.resumable:
            return SESSION
        if request.prompt_token_ids is None or request.prompt_is_token_ids is not None:
            return EMBEDDINGS
        if self.speculates:
            return SPECULATION
        if self.returns_sampling_mask:
            return SAMPLING_MASK
        if params.num_logprobs is not None or params.prompt_logprobs is not None:
            return LOG_PROBABILITIES
        if request.use_structured_output and self.reasons:
            return REASONING_GRAMMAR
        return "" if self.counts_output else self._what_counts_output(params)

    def _what_counts_output(self, params: "SamplingParams") -> str:
        if params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1:
            return PENALTIES
        if params.seed is not None:
            return SEED
        if params.min_tokens:  # also 1: the second token would be the one under it
            return MIN_TOKENS
        if params.bad_words_token_ids:
            return BAD_WORDS
        if params.thinking_token_budget is not None:
            return BUDGET
        return PROCESSORS if self.has_processors else ""


def stops_too_early(params: "SamplingParams", token: int) -> bool:
    """Whether a sampler that knows `min_tokens` would not have chosen it as the first."""
    return params.min_tokens > 0 and (token == params.eos_token_id or token in params.all_stop_token_ids)


def is_the_last(request: "Request", token: int, max_model_len: int) -> bool:
    """Whether an answer ends with it, as vLLM's `check_stop` will find."""
    params = request.sampling_params
    assert params is not None
    if token == params.eos_token_id or token in (params.stop_token_ids or ()):
        return True
    return bool(request.num_tokens + 1 >= max_model_len or request.max_tokens <= 1)

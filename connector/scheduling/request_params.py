"""What a request brings along of its transfer: `kv_transfer_params`, and its prompt."""

import hashlib
import logging
from array import array
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

if TYPE_CHECKING:
    from vllm.v1.request import Request

log = logging.getLogger(__name__)


class ProducerParams(msgspec.Struct, frozen=True):
    """`kv_transfer_params` of a prefill request."""

    transfer_id: str
    do_remote_decode: bool = False


class PeerParams(msgspec.Struct, frozen=True):
    """The producer's `kv_transfer` record, as its launcher put it into etcd.

    control: by rank; those of a pipeline's first stage come first.
    """

    engine_id: str
    control: list[str]
    pipeline_parallel_size: Annotated[int, msgspec.Meta(ge=1)] = 1


class ConsumerParams(msgspec.Struct, frozen=True):
    """`kv_transfer_params` of a decode request."""

    transfer_id: str
    producer: PeerParams
    do_remote_prefill: bool = False
    timeline: bool = False  # the facts shall have one


def params_of(request: "Request", kind: type[Any], flag: str) -> Any:
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


def leave_out(request: "Request", tokens: int) -> None:
    """Shortens the prompt by its last `tokens` tokens, before anything of it is computed. Not where fewer are left
    than one, nor where vLLM computes everything on the other side (prompt log probabilities)."""
    if not tokens or request.num_prompt_tokens <= tokens or request.get_skip_reading_prefix_cache():
        return
    if request.prompt_token_ids is not None:
        request.prompt_token_ids = request.prompt_token_ids[:-tokens]  # the list may be others' as well
    if request.prompt_embeds is not None:
        request.prompt_embeds = request.prompt_embeds[:-tokens]
    if request.prompt_is_token_ids is not None:  # of a prompt with both
        request.prompt_is_token_ids = request.prompt_is_token_ids[:-tokens]
    del request._all_token_ids[-tokens:]  # vLLM offers no other way; its own connectors do the same
    request.num_prompt_tokens -= tokens
    # A generated token would take the place of the one left out, in a block whose hash vLLM has made with that one.
    request.max_tokens = 1

"""A client's body, checked as far as the proxy has to understand it, and the two bodies made of it.

The consumer gets the client's bytes as they are, with `kv_transfer_params` appended: no parameter is parsed and
written again on the way. The producer gets every field that shapes the prompt, and is asked for one token.
"""

import json
from dataclasses import dataclass
from typing import Any

from proxy.errors import BadRequest
from stack.instances import Instance

# What only shapes the output. The producer's single token is thrown away, and some of these would make it fail or make
# it more than one request. Fields that a chat template can read (tools, tool_choice, response_format, …) must stay:
# both legs have to see the same prompt.
_OUTPUT_ONLY = frozenset(
    {
        *("n", "best_of", "min_tokens", "stream_options", "echo", "suffix"),
        *("logprobs", "top_logprobs", "prompt_logprobs", "logprob_token_ids"),
        *("return_token_ids", "return_tokens_as_token_ids", "return_token_offsets", "return_prompt_text"),
    }
)


@dataclass(frozen=True)
class Endpoint:
    """A path of OpenAI's API that takes both legs; `prompt_fields`: one of them has to be there."""

    path: str
    prompt_fields: tuple[str, ...]


ENDPOINTS = (
    Endpoint("/v1/completions", ("prompt", "prompt_embeds")),
    Endpoint("/v1/chat/completions", ("messages",)),
)


class CompletionRequest:
    """One checked request; `model` and `stream` are what dispatch has to know.

    Raises: BadRequest: with the name of the parameter, for what no instance should be bothered with.
    """

    def __init__(self, raw: bytes, endpoint: Endpoint) -> None:
        body = _parsed(raw)
        self.model = _model(body)
        self.stream = bool(body.get("stream"))
        _refuse_unsupported(body)
        if all(body.get(field) is None for field in endpoint.prompt_fields):
            raise BadRequest(f"Missing required parameter: '{endpoint.prompt_fields[0]}'.", endpoint.prompt_fields[0])
        self._decode = raw.rstrip()
        self._prefill = json.dumps(_one_token(body)).encode()

    def prefill_body(self, transfer_id: str) -> bytes:
        return _with_parameters(self._prefill, {"do_remote_decode": True, "transfer_id": transfer_id})

    def decode_body(self, transfer_id: str, producer: Instance) -> bytes:
        parameters = {"do_remote_prefill": True, "transfer_id": transfer_id, "producer": producer.kv_transfer}
        return _with_parameters(self._decode, parameters)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        # Decoded first: json.loads on bytes would accept UTF-16, to which nothing can be appended as bytes.
        body = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body is not valid JSON in UTF-8: {error}.") from error
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    return body


def _one_token(body: dict[str, Any]) -> dict[str, Any]:
    prefill = {name: value for name, value in body.items() if name not in _OUTPUT_ONLY}
    prefill |= {"stream": False, "max_tokens": 1}
    if "max_completion_tokens" in prefill:
        prefill["max_completion_tokens"] = 1
    return prefill


def _with_parameters(body: bytes, parameters: dict[str, Any]) -> bytes:
    """`body` is a JSON object with at least one member."""
    return body[:-1] + b', "kv_transfer_params": ' + json.dumps(parameters).encode() + b"}"


def _model(body: dict[str, Any]) -> str:
    model = body.get("model")
    if model is None or model == "":
        raise BadRequest("Missing required parameter: 'model'.", "model")
    if not isinstance(model, str):
        raise BadRequest("'model' must be a string.", "model")
    return model


def _refuse_unsupported(body: dict[str, Any]) -> None:
    """One transfer id moves one prompt's KV cache to one sequence; what needs more than that is refused."""
    if "kv_transfer_params" in body:
        raise BadRequest("'kv_transfer_params' is set by the proxy.", "kv_transfer_params")
    for name in ("n", "best_of"):
        value = body.get(name)
        if isinstance(value, int) and value > 1:
            raise BadRequest(f"'{name}' must be 1: one request makes one completion here.", name)
    if body.get("use_beam_search"):
        raise BadRequest("Beam search is not supported.", "use_beam_search")
    for name in ("prompt", "prompt_embeds"):
        value = body.get(name)
        # A list of integers is one prompt, as token ids.
        if isinstance(value, list) and len(value) > 1 and not isinstance(value[0], int):
            raise BadRequest(f"'{name}' must be one prompt: send one request for each.", name)
    if isinstance(body.get("prompt_embeds"), str | list) and body.get("prompt"):
        raise BadRequest("Send either 'prompt' or 'prompt_embeds', not both.", "prompt_embeds")

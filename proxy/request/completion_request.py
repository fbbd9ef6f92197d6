"""A client's body, understood as far as the proxy has to, and the bodies made of it.

No parameter is parsed and written again on its way: each leg gets the client's bytes with members appended. Where a
name is there twice the last one counts, in Python's JSON parser and so in vLLM. The consumer gets only
`kv_transfer_params` more; the producer is asked for one token of the same prompt.

One transfer id moves one prompt's KV cache to one sequence. What needs more than that, or computes the whole prompt at
the consumer anyway, is `unsplittable`: it goes to the consumer alone, as it is.
"""

from typing import Any

import orjson

from proxy.errors import BadRequest
from proxy.request.endpoints import CHAT, MESSAGES, Endpoint
from proxy.request.json_body import in_utf8, parse_object
from stack.instances.record import Instance

# Tools that the client runs. vLLM runs others itself and goes on, with a second request to the engine.
_CLIENT_TOOLS = ("function", "custom", "namespace")
# Only the proxy sets these: the connectors on both sides act on them.
_TRANSFER = ("kv_transfer_params", "ec_transfer_params")

MAX_MODEL_CHARACTERS = 1024  # it is repeated in the answer and in the log


class CompletionRequest:
    """One request; what is wrong with it beyond what the proxy itself needs is left to vLLM to say.

    body: the parsed JSON object. model: what to look for among the served ones, None for the one that vLLM serves when
    none is named. request_id: what vLLM would call it unless a header says otherwise. stream: whether events are
    expected.
    output_limit: the most tokens that the client wants, None when it leaves that to vLLM.
    unsplittable: the parameter that one transfer cannot serve, None for a request that can be disaggregated.
    Raises: BadRequest: with the name of the parameter, for what no instance should be bothered with.
    """

    def __init__(self, raw: bytes, endpoint: Endpoint) -> None:
        raw = in_utf8(raw)
        self.body = parse_object(raw)
        self.model = _model(self.body)
        self.request_id = _request_id(self.body, endpoint)
        _refuse_transfer_parameters(self.body)
        self.stream = _true(self.body.get("stream"))
        self.output_limit = _output_limit(self.body, endpoint)
        self.unsplittable = _unsplittable(self.body, endpoint, self.output_limit)
        self._raw = raw.rstrip()
        self._endpoint = endpoint

    def prefill_body(self, transfer_id: str) -> bytes:
        first, *others = self._endpoint.limits
        members: dict[str, Any] = {"stream": False, first: 1}
        members |= {name: 1 for name in others if name in self.body}
        members |= {name: off for name, off in self._endpoint.output_only.items() if name in self.body}
        members["kv_transfer_params"] = {"do_remote_decode": True, "transfer_id": transfer_id}
        return self._with(members)

    def decode_body(self, transfer_id: str, producer: Instance) -> bytes:
        transfer = {
            "do_remote_prefill": True,
            "transfer_id": transfer_id,
            "producer": producer.kv_transfer,
            "timeline": True,
        }
        return self._with({"kv_transfer_params": transfer})

    def local_body(self) -> bytes:
        """For one instance that does everything: the client's own bytes."""
        return self._raw

    def _with(self, members: dict[str, Any]) -> bytes:
        return self._raw[:-1] + (b", " if self.body else b"") + orjson.dumps(members)[1:]


def _model(body: dict[str, Any]) -> str | None:
    model = body.get("model")
    if model is None or model == "":
        return None
    if not isinstance(model, str):
        raise BadRequest("'model' must be a string.", "model")
    if len(model) > MAX_MODEL_CHARACTERS:
        raise BadRequest(f"'model' has {len(model)} characters: expected at most {MAX_MODEL_CHARACTERS}.", "model")
    return model


def _request_id(body: dict[str, Any], endpoint: Endpoint) -> str | None:
    """Raises: BadRequest: half of a surrogate pair is in it, with which vLLM fails when it writes its answer."""
    given = body.get("request_id") if endpoint.takes_request_id else None
    if not isinstance(given, str):
        return None
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"'request_id' is not valid Unicode: {error.reason}.", "request_id") from error
    return given


def _refuse_transfer_parameters(body: dict[str, Any]) -> None:
    extra = body.get("vllm_xargs")  # vLLM merges them with its own
    for name in _TRANSFER:
        # Null says nothing, and clients that write all of a request's fields have it.
        if body.get(name) is not None or (isinstance(extra, dict) and name in extra):
            raise BadRequest(f"'{name}' is set by the proxy.", name)


def _output_limit(body: dict[str, Any], endpoint: Endpoint) -> int | None:
    return next((limit for name in endpoint.limits if (limit := _integer(body.get(name))) is not None), None)


def _unsplittable(body: dict[str, Any], endpoint: Endpoint, output_limit: int | None) -> str | None:
    if output_limit is not None and output_limit < 1:  # refused, or an echo of the prompt without an answer
        return next(name for name in endpoint.limits if _integer(body.get(name)) is not None)
    if (_integer(body.get("n")) or 1) > 1:
        return "n"
    for name in ("use_beam_search", "background"):  # many requests to the engine; an answer that is fetched later
        if _true(body.get(name)):
            return name
    if body.get("previous_response_id") is not None:  # the consumer's memory
        return "previous_response_id"
    return (
        _prompts(body) or _prompt_logprobs(body, endpoint) or _tools(body, endpoint) or _truncation(body, output_limit)
    )


def _prompts(body: dict[str, Any]) -> str | None:
    """A list of integers is one prompt, as token ids."""
    for name in ("prompt", "prompt_embeds"):
        value = body.get(name)
        if isinstance(value, list) and len(value) > 1 and not isinstance(value[0], int):
            return name
    return "prompt_embeds" if body.get("prompt") and body.get("prompt_embeds") else None


def _prompt_logprobs(body: dict[str, Any], endpoint: Endpoint) -> str | None:
    """They exist only where the whole prompt is computed, so vLLM takes nothing from any cache."""
    if body.get("prompt_logprobs") is not None:
        return "prompt_logprobs"
    # vLLM asks for them with every echo in a chat, and in a completion when it has log probabilities.
    if _true(body.get("echo")) and (endpoint is CHAT or body.get("logprobs") is not None):
        return "echo"
    return None


def _tools(body: dict[str, Any], endpoint: Endpoint) -> str | None:
    choice = body.get("tool_choice")
    # vLLM reads a named tool's arguments as JSON here, which the first token of them is not.
    if endpoint is MESSAGES and isinstance(choice, dict) and choice.get("type") == "tool":
        return "tool_choice"
    tools = body.get("tools")
    kinds = (
        [tool.get("type", "function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    )
    return None if all(kind in _CLIENT_TOOLS for kind in kinds) else "tools"


def _truncation(body: dict[str, Any], output_limit: int | None) -> str | None:
    """A prompt that is cut to fit keeps one token less when the output is limited, as it is at the producer only."""
    if output_limit is not None:
        return None
    if _integer(body.get("truncate_prompt_tokens")) == -1:
        return "truncate_prompt_tokens"
    return "truncation" if body.get("truncation") == "auto" else None


def _true(value: Any) -> bool:
    """As pydantic reads a bool."""
    return str(value).lower() in ("true", "1", "on", "t", "y", "yes")


def _integer(value: Any) -> int | None:
    """As pydantic reads an int, None for everything that it refuses."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None

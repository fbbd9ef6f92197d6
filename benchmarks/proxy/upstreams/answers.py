"""The request that is measured, and what the scripted upstreams answer: shaped like vLLM's, of no model.

How a stream is paced stands in its prompt, because every proxy passes a prompt on as it is.
"""

import json
from itertools import count

MODEL = "benchmark"
PATH = "/v1/completions"
DONE = b"data: [DONE]\n\n"
# What vLLM's producers answer with one of its connectors; the example proxies hand it on to the consumer.
KV_TRANSFER_PARAMS = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_engine_id": "engine-0",
    "remote_block_ids": [list(range(16))],
    "remote_host": "127.0.0.1",
    "remote_port": 5600,
}
MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
# What a producer's bootstrap server knows in vLLM's MooncakeConnector.
ENGINES = json.dumps({"0": {"engine_id": "engine-0", "worker_addr": {"0": {"0": "tcp://127.0.0.1:5601"}}}}).encode()

# What vLLM without --enable-scale-out says, with status 403, when vllm-router asks it for the tokens of a prompt.
RENDER = PATH + "/render"
NO_RENDER = json.dumps(
    {
        "error": {
            "message": "Scale-out endpoints are disabled.",
            "type": "PermissionDeniedError",
            "param": None,
            "code": 403,
        }
    }
).encode()


def request_bodies(number: int, prompt_bytes: int, tokens: int, interval_us: int) -> list[bytes]:
    """`number` bodies whose prompts differ from their first bytes on, so that no two share a prefix."""
    bodies = []
    for index in range(number):
        start = f"{index:06d} interval {interval_us} us. "
        filler = (f"word{at} " for at in count(index))
        prompt = start
        while len(prompt) < prompt_bytes:
            prompt += next(filler)
        body = {"model": MODEL, "prompt": prompt[: max(prompt_bytes, len(start))], "max_tokens": tokens, "stream": True}
        bodies.append(json.dumps(body).encode())
    return bodies


def event(text: str) -> bytes:
    """One token of a stream, as vLLM writes it."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None, "stop_reason": None}
    return _data(choice)


def last_event() -> bytes:
    choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": "length", "stop_reason": None}
    return _data(choice)


def whole(tokens: int = 1) -> bytes:
    """An answer that is not streamed: the prefill leg's."""
    choice = {"index": 0, "text": " word" * tokens, "logprobs": None, "finish_reason": "length", "stop_reason": None}
    usage = {"prompt_tokens": 1000, "completion_tokens": tokens, "total_tokens": 1000 + tokens}
    body = {**_completion(choice), "usage": usage, "kv_transfer_params": KV_TRANSFER_PARAMS}
    return json.dumps(body, separators=(",", ":")).encode()


def whole_stream(tokens: int) -> bytes:
    return b"".join([*(event(f" word{number}") for number in range(tokens - 1)), last_event(), DONE])


def _data(choice: dict[str, object]) -> bytes:
    return b"data: " + json.dumps({**_completion(choice), "usage": None}, separators=(",", ":")).encode() + b"\n\n"


def _completion(choice: dict[str, object]) -> dict[str, object]:
    return {
        "id": "cmpl-0f1e2d3c4b5a69788796a5b4c3d2e1f0",
        "object": "text_completion",
        "created": 1700000000,
        "model": MODEL,
        "choices": [choice],
    }

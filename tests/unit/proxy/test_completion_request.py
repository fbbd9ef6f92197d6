"""What is checked in a client's body, and what becomes of it on each leg."""

import json
from typing import Any

import pytest

from proxy.completion_request import ENDPOINTS, CompletionRequest
from proxy.errors import BadRequest
from tests.unit.proxy.scripted import instance

COMPLETIONS, CHAT = ENDPOINTS
PRODUCER = instance("prefill", "p0", kv_transfer={"control": "tcp://p0:1"})
PROMPT: dict[str, Any] = {"model": "m", "prompt": "x"}
MESSAGES: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
ONE_TOKEN = {
    "stream": False,
    "max_tokens": 1,
    "kv_transfer_params": {"do_remote_decode": True, "transfer_id": "t"},
}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}


@pytest.mark.parametrize(
    ("given", "prefill"),
    [
        ({}, {}),
        ({"max_tokens": 1000, "stream": True, "stream_options": {"include_usage": True}}, {}),
        ({"min_tokens": 5, "n": 1, "best_of": 1, "echo": True, "logprobs": 5, "prompt_logprobs": 1}, {}),
        ({"temperature": 0.5, "seed": 1, "stop": ["x"], "ignore_eos": True}, "kept"),
        ({"priority": 3, "cache_salt": "s", "truncate_prompt_tokens": 9, "add_special_tokens": False}, "kept"),
        # A chat template can read these, so both legs must see them.
        (TOOLS | {"response_format": {"type": "json_object"}, "chat_template_kwargs": {"a": 1}}, "kept"),
        ({"max_completion_tokens": 99}, {"max_completion_tokens": 1}),
    ],
)
def test_the_prefill_leg_asks_for_one_token_of_the_same_prompt(given: dict[str, Any], prefill: Any) -> None:
    request = CompletionRequest(json.dumps(MESSAGES | given).encode(), CHAT)
    expected = MESSAGES | (given if prefill == "kept" else prefill) | ONE_TOKEN
    assert json.loads(request.prefill_body("t")) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","prompt":"x"}',
        b' {"model": "m", "prompt": "x", "temperature": 1.10, "seed": 18446744073709551616}\r\n\t ',
        '{"prompt": "你好 \\ud83d\\ude00 \\ud83d", "model": "m"}'.encode(),
        b'{"model": "m", "prompt": [1, 2, 3], "nested": {"a": {}}}',
    ],
)
def test_the_decode_leg_is_the_clients_own_bytes(raw: bytes) -> None:
    body = CompletionRequest(raw, COMPLETIONS).decode_body("t", PRODUCER)
    assert body.startswith(raw.rstrip()[:-1] + b', "kv_transfer_params"')
    parameters = {"do_remote_prefill": True, "transfer_id": "t", "producer": {"control": "tcp://p0:1"}}
    assert json.loads(body) == json.loads(raw) | {"kv_transfer_params": parameters}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 2}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [[1, 2], [3]]}, "prompt"),
        ({"prompt": None, "prompt_embeds": ["a", "b"]}, "prompt_embeds"),
        ({"prompt_embeds": "a"}, "prompt_embeds"),
        ({"prompt": None}, "prompt"),
        ({"kv_transfer_params": None}, "kv_transfer_params"),
        ({"model": ""}, "model"),
        ({"model": ["m"]}, "model"),
    ],
)
def test_what_one_transfer_cannot_carry_is_refused(given: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        CompletionRequest(json.dumps(PROMPT | given).encode(), COMPLETIONS)
    assert refusal.value.param == param


@pytest.mark.parametrize("prompt", ["", "x", [1, 2, 3], ["x"], [[1, 2, 3]], []])
def test_one_prompt_in_any_of_its_forms_is_left_to_vllm(prompt: Any) -> None:
    assert CompletionRequest(json.dumps(PROMPT | {"prompt": prompt}).encode(), COMPLETIONS).model == "m"


@pytest.mark.parametrize(("given", "stream"), [({}, False), ({"stream": True}, True), ({"stream": None}, False)])
def test_stream(given: dict[str, Any], stream: bool) -> None:
    assert CompletionRequest(json.dumps(PROMPT | given).encode(), COMPLETIONS).stream is stream

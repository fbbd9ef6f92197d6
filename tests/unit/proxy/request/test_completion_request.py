"""What becomes of a client's body: what each leg gets, what goes to the consumer alone, what is refused."""

import json
from typing import Any

import pytest

from proxy.errors import BadRequest
from proxy.request.completion_request import CompletionRequest
from proxy.request.endpoints import CHAT, COMPLETIONS, DETOKENIZE, MESSAGES, RESPONSES, TOKENIZE, Endpoint
from tests.unit.proxy.scripted import instance

PRODUCER = instance("prefill", "p0", kv_transfer={"control": "tcp://p0:1"})
PROMPT: dict[str, Any] = {"model": "m", "prompt": "x"}
MESSAGE: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
INPUT: dict[str, Any] = {"model": "m", "input": "x"}
MINIMAL = {COMPLETIONS: PROMPT, CHAT: MESSAGE, RESPONSES: INPUT, MESSAGES: MESSAGE, TOKENIZE: PROMPT}
FUNCTION = {"type": "function", "function": {"name": "f"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def request(endpoint: Endpoint, **given: Any) -> CompletionRequest:
    return CompletionRequest(json.dumps(MINIMAL[endpoint] | given).encode(), endpoint)


@pytest.mark.parametrize(
    ("endpoint", "given", "changed"),
    [
        (COMPLETIONS, {}, {"max_tokens": 1}),
        (COMPLETIONS, {"max_tokens": 1000, "stream": True}, {"max_tokens": 1}),
        (COMPLETIONS, {"max_tokens": None}, {"max_tokens": 1}),
        (COMPLETIONS, {"stream_options": {"include_usage": True}}, {"max_tokens": 1, "stream_options": None}),
        (COMPLETIONS, {"min_tokens": 5, "logprobs": 5}, {"max_tokens": 1, "min_tokens": 0, "logprobs": None}),
        (COMPLETIONS, {"echo": True, "n": 1, "best_of": 3}, {"max_tokens": 1, "echo": False}),
        (COMPLETIONS, {"structured_outputs": {"regex": "a+"}}, {"max_tokens": 1}),
        (RESPONSES, {"structured_outputs": {"choice": ["a"]}}, {"max_output_tokens": 1}),
        (COMPLETIONS, {"return_token_ids": True}, {"max_tokens": 1, "return_token_ids": None}),
        (COMPLETIONS, {"temperature": 0.5, "seed": 1, "stop": ["x"], "ignore_eos": True}, {"max_tokens": 1}),
        (COMPLETIONS, {"priority": 3, "cache_salt": "s", "truncate_prompt_tokens": 9}, {"max_tokens": 1}),
        (COMPLETIONS, {"prompt": ["x"], "suffix": "y", "add_special_tokens": False}, {"max_tokens": 1}),
        (COMPLETIONS, {"logit_bias": {"5": 1.0}, "stop_token_ids": [7]}, {"max_tokens": 1}),
        (CHAT, {}, {"max_completion_tokens": 1}),
        (CHAT, {"max_completion_tokens": 99}, {"max_completion_tokens": 1}),
        (CHAT, {"max_tokens": 99}, {"max_completion_tokens": 1, "max_tokens": 1}),
        (
            CHAT,
            {"logprobs": True, "top_logprobs": 3},
            {"max_completion_tokens": 1, "logprobs": False, "top_logprobs": 0},
        ),
        # A chat template can read these, so both legs must see them.
        (CHAT, {"tools": [FUNCTION], "tool_choice": "required"}, {"max_completion_tokens": 1}),
        (CHAT, {"response_format": SCHEMA, "chat_template_kwargs": {"a": 1}}, {"max_completion_tokens": 1}),
        (CHAT, {"messages": [{"role": "user", "content": [IMAGE]}]}, {"max_completion_tokens": 1}),
        (RESPONSES, {}, {"max_output_tokens": 1}),
        (RESPONSES, {"max_output_tokens": 9, "store": False, "stream": True}, {"max_output_tokens": 1}),
        (RESPONSES, {"include": ["message.output_text.logprobs"]}, {"max_output_tokens": 1, "include": None}),
        (RESPONSES, {"instructions": "i", "tools": [{"type": "function", "name": "f"}]}, {"max_output_tokens": 1}),
        (MESSAGES, {"max_tokens": 9, "system": "s", "stop_sequences": ["x"]}, {"max_tokens": 1}),
        (MESSAGES, {"max_tokens": 9, "tools": [{"name": "f", "input_schema": {}}], "stream": True}, {"max_tokens": 1}),
    ],
)
def test_the_prefill_leg_asks_for_one_token_of_the_same_prompt(
    endpoint: Endpoint, given: dict[str, Any], changed: dict[str, Any]
) -> None:
    asked = request(endpoint, **given)
    transfer = {"kv_transfer_params": {"do_remote_decode": True, "transfer_id": "t"}}
    assert json.loads(asked.prefill_body("t")) == MINIMAL[endpoint] | given | {"stream": False} | changed | transfer
    assert asked.unsplittable is None


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","prompt":"x"}',
        b' {"model": "m", "prompt": "x", "temperature": 1.10, "seed": 18446744073709551616}\r\n\t ',
        '{"prompt": "你好 \\ud83d\\ude00 \\ud83d", "model": "m"}'.encode(),
        b'{"model": "m", "prompt": [1, 2, 3], "nested": {"a": {}}}',
    ],
)
def test_every_leg_gets_the_clients_own_bytes(raw: bytes) -> None:
    asked = CompletionRequest(raw, COMPLETIONS)
    prefill, decode = asked.prefill_body("t"), asked.decode_body("t", PRODUCER)
    assert prefill.startswith(raw.rstrip()[:-1] + b', "stream":false')
    assert decode.startswith(raw.rstrip()[:-1] + b', "kv_transfer_params"')
    parameters = {
        "do_remote_prefill": True,
        "transfer_id": "t",
        "producer": {"control": "tcp://p0:1"},
        "timeline": True,
    }
    assert json.loads(decode) == json.loads(raw) | {"kv_transfer_params": parameters}
    assert asked.local_body() == raw.rstrip()


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_every_leg_gets_in_utf_8_what_came_in_another_encoding(encoding: str) -> None:
    text = '{"model": "m", "prompt": "你好 🎈"} '
    asked = CompletionRequest(text.encode(encoding), COMPLETIONS)
    assert asked.local_body() == text.rstrip().encode()
    assert asked.prefill_body("t").startswith(text.rstrip()[:-1].encode() + b', "stream":false')
    assert json.loads(asked.decode_body("t", PRODUCER))["prompt"] == "你好 🎈"


@pytest.mark.parametrize("raw", [b"{}", b"{ \n}", b"\xef\xbb\xbf{}"])
def test_a_body_without_members_stays_one_that_can_be_read(raw: bytes) -> None:
    asked = CompletionRequest(raw, COMPLETIONS)
    assert asked.model is None
    assert json.loads(asked.prefill_body("t"))["max_tokens"] == 1
    assert json.loads(asked.decode_body("t", PRODUCER)).keys() == {"kv_transfer_params"}


@pytest.mark.parametrize("given", [{"model": None}, {"model": ""}])
@pytest.mark.parametrize("endpoint", MINIMAL)
def test_a_model_that_is_left_out_is_left_to_the_instance(endpoint: Endpoint, given: dict[str, Any]) -> None:
    asked = request(endpoint, **given)
    assert asked.model is None
    assert json.loads(asked.local_body()) == MINIMAL[endpoint] | given


@pytest.mark.parametrize(
    ("endpoint", "given", "request_id"),
    [
        (COMPLETIONS, {"request_id": "mine"}, "mine"),
        (CHAT, {"request_id": "mine"}, "mine"),
        (RESPONSES, {"request_id": "mine"}, "mine"),
        (COMPLETIONS, {"request_id": ""}, ""),
        (COMPLETIONS, {"request_id": 5}, None),
        (COMPLETIONS, {"request_id": None}, None),
        (COMPLETIONS, {}, None),
        # No field of theirs in vLLM.
        (MESSAGES, {"request_id": "mine"}, None),
        (TOKENIZE, {"request_id": "mine"}, None),
    ],
)
def test_request_id(endpoint: Endpoint, given: dict[str, Any], request_id: str | None) -> None:
    assert request(endpoint, **given).request_id == request_id


@pytest.mark.parametrize(
    ("endpoint", "given", "parameter"),
    [
        (COMPLETIONS, {"n": 2}, "n"),
        (COMPLETIONS, {"n": "2"}, "n"),  # which pydantic takes for a number
        (CHAT, {"n": 2}, "n"),
        (COMPLETIONS, {"use_beam_search": True}, "use_beam_search"),
        (COMPLETIONS, {"prompt": ["a", "b"]}, "prompt"),
        (COMPLETIONS, {"prompt": [[1, 2], [3]]}, "prompt"),
        (COMPLETIONS, {"prompt": None, "prompt_embeds": ["a", "b"]}, "prompt_embeds"),
        (COMPLETIONS, {"prompt_embeds": "a"}, "prompt_embeds"),
        (COMPLETIONS, {"prompt_logprobs": 0}, "prompt_logprobs"),
        (CHAT, {"prompt_logprobs": 1}, "prompt_logprobs"),
        (COMPLETIONS, {"echo": True, "logprobs": 0}, "echo"),
        (CHAT, {"echo": True}, "echo"),
        (COMPLETIONS, {"max_tokens": 0, "echo": True}, "max_tokens"),
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"max_completion_tokens": -1, "max_tokens": 5}, "max_completion_tokens"),
        (RESPONSES, {"max_output_tokens": 0}, "max_output_tokens"),
        (RESPONSES, {"background": True}, "background"),
        (RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id"),
        (RESPONSES, {"tools": [{"type": "web_search_preview"}]}, "tools"),
        (RESPONSES, {"tools": [{"type": {}}]}, "tools"),
        (MESSAGES, {"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice"),
        (MESSAGES, {"tool_choice": {"type": "any"}}, None),
        (CHAT, {"tool_choice": {"type": "function", "function": {"name": "f"}}}, None),
        (RESPONSES, {"truncation": "auto"}, "truncation"),
        (CHAT, {"truncate_prompt_tokens": -1}, "truncate_prompt_tokens"),
        (COMPLETIONS, {"truncate_prompt_tokens": -1, "max_tokens": 5}, None),
        (RESPONSES, {"truncation": "auto", "max_output_tokens": 5}, None),
        (RESPONSES, {"truncation": "disabled", "previous_response_id": None, "background": False}, None),
        (COMPLETIONS, {"echo": True}, None),
        (COMPLETIONS, {"echo": "false", "logprobs": 1}, None),
        (COMPLETIONS, {"prompt_logprobs": None, "n": None, "use_beam_search": False}, None),
    ],
)
def test_what_one_transfer_cannot_serve_is_named(
    endpoint: Endpoint, given: dict[str, Any], parameter: str | None
) -> None:
    assert request(endpoint, **given).unsplittable == parameter


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ({"kv_transfer_params": {}}, "kv_transfer_params"),
        ({"kv_transfer_params": {"do_remote_decode": True}}, "kv_transfer_params"),
        ({"ec_transfer_params": {}}, "ec_transfer_params"),
        ({"vllm_xargs": {"kv_transfer_params": "x"}}, "kv_transfer_params"),
        ({"model": ["m"]}, "model"),
        ({"model": False}, "model"),
    ],
)
@pytest.mark.parametrize("endpoint", MINIMAL)
def test_what_is_the_proxys_own_is_refused(endpoint: Endpoint, given: dict[str, Any], parameter: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        request(endpoint, **given)
    assert refusal.value.param == parameter


@pytest.mark.parametrize("endpoint", MINIMAL)
def test_null_for_what_is_the_proxys_own_says_nothing(endpoint: Endpoint) -> None:
    """As clients write it that send every field of a request."""
    given = request(endpoint, kv_transfer_params=None, ec_transfer_params=None)
    assert json.loads(given.local_body())["kv_transfer_params"] is None
    for leg in (given.prefill_body("t"), given.decode_body("t", PRODUCER)):
        assert json.loads(leg)["kv_transfer_params"]["transfer_id"] == "t"


def test_a_request_id_that_no_answer_can_hold_is_refused() -> None:
    with pytest.raises(BadRequest, match="'request_id' is not valid Unicode: surrogates not allowed") as refusal:
        request(CHAT, request_id="a\ud83d")
    assert refusal.value.param == "request_id"
    assert request(MESSAGES, request_id="a\ud83d").request_id is None


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"1", b"\xff{}", b"[" * 100_000, '{"model": "m"}'.encode("utf-16")[:-1]]
)
def test_what_is_not_a_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="JSON"):
        CompletionRequest(raw, COMPLETIONS)


@pytest.mark.parametrize("prompt", [None, "", "x", 5, [1, 2, 3], ["x"], [[1, 2, 3]], [], [None], {"a": 1}])
def test_every_single_prompt_right_or_wrong_is_left_to_vllm(prompt: Any) -> None:
    assert request(COMPLETIONS, prompt=prompt).unsplittable is None


@pytest.mark.parametrize(("given", "stream"), [({}, False), ({"stream": True}, True), ({"stream": None}, False)])
def test_stream(given: dict[str, Any], stream: bool) -> None:
    assert request(COMPLETIONS, **given).stream is stream


@pytest.mark.parametrize(
    ("endpoint", "given", "limit"),
    [
        (COMPLETIONS, {"max_tokens": 7}, 7),
        (COMPLETIONS, {"max_tokens": "x"}, None),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": 5}, 5),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": None}, 7),
        (RESPONSES, {"max_tokens": 7}, None),
        (RESPONSES, {"max_output_tokens": 7}, 7),
        (MESSAGES, {"max_tokens": 7}, 7),
    ],
)
def test_output_limit(endpoint: Endpoint, given: dict[str, Any], limit: int | None) -> None:
    assert request(endpoint, **given).output_limit == limit


def test_paths_of_one_leg_say_so() -> None:
    assert not TOKENIZE.both_legs
    assert not DETOKENIZE.both_legs

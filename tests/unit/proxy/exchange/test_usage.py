"""Cached tokens in answers as vLLM writes them: counted as one server would, and not another byte changed."""

import json
from typing import Any

import pytest

from proxy.exchange import usage
from proxy.exchange.usage import PromptCache

# Of a prompt of 100 tokens, all but the last of which were moved, in the forms of each API.
COMPLETION = (
    b'{"choices":[{"text":"\\"usage\\":{}","logprobs":null}],"usage":{"prompt_tokens":100,"total_tokens":105,'
    b'"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":99,"created_cache_tokens":null,'
    b'"multimodal_tokens":null},"completion_tokens_details":null},"kv_transfer_params":{"tokens":68}}'
)
CHAT = COMPLETION.replace(b'"created_cache_tokens":null', b'"created_cache_tokens":0')
LAST_CHUNK = (
    'data: {"choices":[{"index":0,"delta":{"content":"é"}}],"usage":{"prompt_tokens":100,"total_tokens":104,'
    '"completion_tokens":4}}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":100,"total_tokens":105,"completion_tokens":5,'
    '"prompt_tokens_details":{"cached_tokens":99,"created_cache_tokens":0}},"system_fingerprint":"é"}\n\n'
    "data: [DONE]\n\n"
).encode()
RESPONSE = (
    b'{"tools":[{"parameters":{"usage":{"input_tokens":1,"input_tokens_details":{"cached_tokens":1}}}}],'
    b'"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":99,"cache_write_tokens":0,'
    b'"input_tokens_per_turn":[]},"output_tokens":5,"total_tokens":105},"user":null}'
)
MESSAGE = (
    b'{"content":[{"type":"tool_use","input":{"usage":{"cache_read_input_tokens":7}}}],"usage":{"input_tokens":1,'
    b'"output_tokens":5,"cache_creation_input_tokens":0,"cache_read_input_tokens":99},"kv_transfer_params":null}'
)
MESSAGE_DELTA = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"max_tokens"},"usage":'
    b'{"input_tokens":1,"output_tokens":5,"cache_creation_input_tokens":0,"cache_read_input_tokens":99}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (COMPLETION, COMPLETION.replace(b'"cached_tokens":99', b'"cached_tokens":32')),
        (CHAT, CHAT.replace(b'99,"created_cache_tokens":0', b'32,"created_cache_tokens":64')),
        (LAST_CHUNK, LAST_CHUNK.replace(b'99,"created_cache_tokens":0', b'32,"created_cache_tokens":64')),
        (RESPONSE, RESPONSE.replace(b'99,"cache_write_tokens":0', b'32,"cache_write_tokens":64')),
        (
            MESSAGE,
            MESSAGE.replace(b'"input_tokens":1,', b'"input_tokens":4,').replace(
                b'"cache_creation_input_tokens":0,"cache_read_input_tokens":99',
                b'"cache_creation_input_tokens":64,"cache_read_input_tokens":32',
            ),
        ),
        (
            MESSAGE_DELTA,
            MESSAGE_DELTA.replace(b'"input_tokens":1,', b'"input_tokens":4,').replace(
                b'"cache_creation_input_tokens":0,"cache_read_input_tokens":99',
                b'"cache_creation_input_tokens":64,"cache_read_input_tokens":32',
            ),
        ),
    ],
    ids=["completion", "chat", "stream", "response", "message", "message stream"],
)
def test_the_producers_figure_replaces_the_consumers(answer: bytes, expected: bytes) -> None:
    assert usage.counts_cached(answer)
    assert usage.corrected(answer, PromptCache(32, 64), moved=99).decode() == expected.decode()


@pytest.mark.parametrize(
    ("producer", "moved", "found", "added"),
    [
        (PromptCache(32, 64), 99, 32, 64),
        (PromptCache(32, 64), 36, 64, 32),  # the consumer held more: the answer before this prompt
        (PromptCache(64, 32), 68, 64, 32),  # the consumer held less
        (PromptCache(0, 96), 4, 96, 0),
        (PromptCache(32, 64), 0, 32, 64),  # nothing arrived, and the consumer computed the prompt
        (PromptCache(32, None), 36, 64, 0),
        (None, 68, 32, 0),
        (None, 0, 0, 0),
    ],
)
def test_one_server_would_have_found_the_longer_of_both(
    producer: PromptCache | None, moved: int | None, found: int, added: int
) -> None:
    counted = json.loads(usage.corrected(CHAT, producer, moved))["usage"]["prompt_tokens_details"]
    assert (counted["cached_tokens"], counted["created_cache_tokens"]) == (found, added)


@pytest.mark.parametrize(
    ("moved", "left_out", "found"),
    [(99, 1, 0), (67, 1, 32), (97, 3, 0), (0, 1, 0)],
)
def test_tokens_that_the_consumer_always_computes_were_not_found(moved: int, left_out: int, found: int) -> None:
    """Of a model with windows or a state, and behind a draft of several modules."""
    counted = json.loads(usage.corrected(CHAT, PromptCache(0, 96), moved, left_out))["usage"]["prompt_tokens_details"]
    assert counted["cached_tokens"] == found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (LAST_CHUNK, 16),  # nobody says what the consumer held
        (CHAT, 32),
        (CHAT.replace(b'{"tokens":68}', b"null"), 16),
        (CHAT.replace(b'{"tokens":68}', b'{"transport":"tcp","tokens":4}'), 96),
        (CHAT.replace(b'{"tokens":68}', b'{"tokens":67,"left_out":1}'), 32),
    ],
)
def test_a_whole_answer_says_itself_what_was_moved(answer: bytes, found: int) -> None:
    assert f'"cached_tokens":{found},'.encode() in usage.corrected(answer, PromptCache(16, 80), moved=None)


@pytest.mark.parametrize(
    "answer",
    [
        b"data: [DONE]\n\n",
        b'data: {"choices":[{"text":"\\"cached_tokens\\" and \\"usage\\":{"}]}\n\n',
        b'{"usage":{"prompt_tokens":4,"total_tokens":9,"completion_tokens":5,"prompt_tokens_details":null}}',
        b'{"usage":{"prompt_tokens":4,"prompt_tokens_details":{"cached_tokens":null}}}',
        b'{"usage":null}',
        b'event: message_start\ndata: {"message":{"usage":{"input_tokens":37,"output_tokens":0}}}\n\n',
    ],
)
def test_what_counts_nothing_stays_as_it_is(answer: bytes) -> None:
    assert usage.corrected(answer, PromptCache(32, 0), moved=5) == answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (COMPLETION, PromptCache(99, None)),
        (CHAT, PromptCache(99, 0)),
        (RESPONSE, PromptCache(99, 0)),
        (MESSAGE, PromptCache(99, 0)),
        (b'{"usage":{"input_tokens":5,"output_tokens":1}}', None),
        (b'{"usage":null}', None),
        (b"[]", None),
        (b"<html>", None),
    ],
)
def test_what_the_producer_says(answer: bytes, expected: PromptCache | None) -> None:
    assert usage.of_prefill(answer) == expected


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (b'{"choices":[{"text":"x"}],"kv_transfer_params":{"store_tokens":1984}}', 1984),
        (b'{"kv_transfer_params": {"transport": "tcp", "store_tokens": 0}, "usage": {}}', 0),
        (b'{"kv_transfer_params":null,"usage":{}}', None),
        (b'{"kv_transfer_params":{"tokens":5}}', None),
        (json.dumps({"choices": [{"text": '"kv_transfer_params":{"store_tokens":7}'}]}).encode(), None),
    ],
)
def test_what_the_producer_says_of_a_store(answer: bytes, tokens: int | None) -> None:
    assert usage.from_store(answer) == tokens


def test_only_the_last_usage_of_some_events_counts() -> None:
    token = b'data: {"choices":[],"usage":null}\n\n'
    counted = b'data: {"usage":{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
    assert usage.counts_cached(token + counted + b"data: [DONE]\n\n")
    assert usage.corrected(counted + token, PromptCache(0), moved=4) == counted + token
    assert not usage.counts_cached(counted + token)


def test_events_without_counts_are_told_apart_cheaply() -> None:
    token: dict[str, Any] = {"choices": [{"text": '"cached_tokens"'}], "usage": {"prompt_tokens": 5}}
    assert not usage.counts_cached(b"data: " + json.dumps(token).encode() + b"\n\n")

"""What is read of a prompt: its size, the prefixes it shares with others, and nothing of what is none."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.request.prompt import BLOCK_BYTES, MAX_BLOCKS, MAX_VALUES, MEDIA_TOKENS, Prompt, read_prompt

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
PATHS = (COMPLETIONS, CHAT, RESPONSES, MESSAGES)
TEXT = "".join(f"{number:04d} " for number in range(400))  # 2,000 bytes, no two blocks alike


def read(path: str, **body: Any) -> Prompt:
    return read_prompt({"model": "m", **body}, path, bytes_per_token=4.0)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        (COMPLETIONS, {"prompt": TEXT}, 500),
        (COMPLETIONS, {"prompt": [TEXT, TEXT]}, 1000),
        (COMPLETIONS, {"prompt": [7] * 300}, 300),
        (COMPLETIONS, {"prompt": [[7] * 300, [8] * 200]}, 500),
        (COMPLETIONS, {"prompt_embeds": "A" * 100_000}, MEDIA_TOKENS),
        (COMPLETIONS, {"prompt": "你好" * 100}, 150),
        (CHAT, {"messages": [user(TEXT)]}, 504),
        (CHAT, {"messages": [user([{"type": "text", "text": TEXT}])]}, 507),
        (CHAT, {"messages": [user(TEXT)], "tools": [{"type": "function", "function": {"name": "f"}}]}, 510),
        (RESPONSES, {"input": TEXT, "instructions": TEXT}, 1000),
        (RESPONSES, {"input": [user([{"type": "input_text", "text": TEXT}])]}, 508),
        (MESSAGES, {"system": TEXT, "messages": [user(TEXT)]}, 1004),
        (MESSAGES, {"system": [{"type": "text", "text": TEXT}], "messages": []}, 503),
    ],
)
def test_how_many_tokens(path: str, body: dict[str, Any], tokens: int) -> None:
    assert abs(read(path, **body).tokens - tokens) <= 1


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (CHAT, {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}),
        (CHAT, {"type": "input_audio", "input_audio": {"data": "A" * 1_000_000, "format": "wav"}}),
        (MESSAGES, {"type": "image", "source": {"type": "base64", "data": "A" * 1_000_000}}),
    ],
)
def test_the_bytes_of_a_file_are_not_text(path: str, part: dict[str, Any]) -> None:
    prompt = read(path, messages=[user([part, {"type": "text", "text": TEXT}])])
    assert 500 + MEDIA_TOKENS < prompt.tokens < 520 + MEDIA_TOKENS
    assert prompt.text_bytes == 0
    assert len(prompt.blocks) == 3


def test_another_image_is_another_prefix() -> None:
    def about(image: str) -> Prompt:
        return read(CHAT, messages=[user([{"type": "image_url", "image_url": {"url": image}}, TEXT])])

    assert shared(about("http://a"), about("http://a")) == 3
    assert shared(about("http://a"), about("http://b")) == 0


def shared(one: Prompt, other: Prompt) -> int:
    return sum(ours == theirs for ours, theirs in zip(one.blocks, other.blocks, strict=False))


def test_the_next_turn_begins_with_the_last() -> None:
    first = [{"role": "system", "content": TEXT}, user("Hello?")]
    turn = read(CHAT, messages=first)
    next_turn = read(CHAT, messages=[*first, {"role": "assistant", "content": "Hi."}, user(TEXT)])
    assert shared(turn, next_turn) == len(turn.blocks) == 3


@pytest.mark.parametrize("change", [{"model": "n"}, {"cache_salt": "s"}, {"prompt": "x" + TEXT}])
def test_prefixes_that_vllm_keeps_apart(change: dict[str, Any]) -> None:
    body = {"model": "m", "prompt": TEXT}
    one, other = (read_prompt(each, COMPLETIONS, 4.0) for each in (body, body | change))
    assert len(one.blocks) == len(other.blocks) == 3
    assert shared(one, other) == 0


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=1000), st.data())
def test_prompts_share_blocks_up_to_their_first_difference(ids: list[int], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(ids) - 1))
    one, other = read(COMPLETIONS, prompt=ids), read(COMPLETIONS, prompt=[*ids[:at], ids[at] + 1, *ids[at + 1 :]])
    assert one.tokens == other.tokens == len(ids)
    assert shared(one, other) == at // 128
    assert shared(one, read(COMPLETIONS, prompt=ids)) == len(ids) // 128


def test_missing() -> None:
    prompt = read(COMPLETIONS, prompt=[7] * 300)
    assert (len(prompt.blocks), prompt.block_tokens) == (2, 128.0)
    assert [prompt.missing(matched) for matched in (0, 1, 2)] == [300, 172, 44]
    assert read(COMPLETIONS, prompt=[7] * 256).missing(2) == 1
    assert Prompt().missing(0) == 0


def test_the_number_of_blocks_is_bounded() -> None:
    prompt = read(COMPLETIONS, prompt="x" * BLOCK_BYTES * (MAX_BLOCKS + 5))
    assert len(prompt.blocks) == MAX_BLOCKS
    assert prompt.tokens == BLOCK_BYTES * (MAX_BLOCKS + 5) // 4


@pytest.mark.parametrize(
    "odd",
    [
        *(None, 7, 1.5, True, {}, [], [None], [[]], [{}], {"type": []}, [1, "x"], [-1], [1 << 40], [1.0], [True, None]),
        json.loads("[" * 900 + "]" * 900),
        [[0.5]] * (2 * MAX_VALUES),
        [{"type": "image", "image": json.loads('{"a":' * 900 + "1" + "}" * 900)}],
        "\ud800",
    ],
    ids=lambda odd: repr(odd)[:20],
)
@pytest.mark.parametrize("path", [*PATHS, "/v1/unknown"])
def test_odd_shapes_have_no_blocks(path: str, odd: Any) -> None:
    body = dict.fromkeys(("model", "cache_salt", "prompt", "messages", "input", "system", "instructions", "tools"), odd)
    assert read_prompt(body, path, 4.0).blocks in ([], ())


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
KEYS = st.sampled_from(["type", "text", "content", "image_url"])
JSON = st.recursive(
    SCALARS | KEYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)
FIELDS = st.sampled_from(["prompt", "messages", "input", "tools", "model"])


@given(st.sampled_from(PATHS), st.dictionaries(FIELDS, JSON, max_size=3))
def test_nothing_raises(path: str, body: dict[str, Any]) -> None:
    prompt = read_prompt(body, path, 4.0)
    assert prompt.tokens >= 0
    assert 0 <= prompt.missing(len(prompt.blocks)) <= prompt.tokens

"""What is parsed and what is not: size, depth, number of values, and how many sequences one request may be."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import BadRequest
from proxy.request.json_body import bound_sequences, in_utf8, parse_object

MEBIBYTE = 1024 * 1024


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not valid JSON"),
        (b"{'a'}", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON in UTF-8"),
        (b'{"a": "' + b"x" * MEBIBYTE + b"\xc3", "not valid JSON in UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not valid JSON in UTF-8"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"[" * 200_000, "recursion depth"),
        (b'{"a":' * 200_000, "recursion depth"),
        (b'{"a": ' + b"9" * MEBIBYTE + b"}", "Exceeds the limit"),
        (b"[" * MEBIBYTE, "more than 250000 '['"),
        (b'{"a":[' + b"[]," * MEBIBYTE + b"[]]}", "more than 1000000 ','"),
        (b'{"a":[' + b"{}," * 300_000 + b"{}]}", "more than 250000 '{'"),
        (b"{" + b'"a":1,' * 300_000 + b'"a":1}', "more than 250000 ':'"),
    ],
)
def test_refused(raw: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_object(raw)
    assert said in str(refusal.value)
    assert len(str(refusal.value)) < 250


def test_long_prompts_are_read() -> None:
    assert len(parse_object(b'{"prompt": [' + b"49151, " * 500_000 + b"1]}")["prompt"]) == 500_001
    assert len(parse_object(b'{"prompt": "' + b"x, " * 900_000 + b'"}')["prompt"]) == 2_700_000
    assert len(parse_object(b'{"image": "' + b"iVBORw0KGgo+" * MEBIBYTE + b'"}')["image"]) == 12 * MEBIBYTE


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x"}, None),
        ({"prompt": [1] * 1000}, None),
        ({"messages": [{}] * 1000}, None),
        ({"prompt": ["x"] * 8}, None),
        ({"prompt": ["x"] * 9}, "prompt"),
        ({"prompt": [[1, 2]] * 9}, "prompt"),
        ({"prompt_embeds": ["x"] * 9}, "prompt"),
        ({"prompt": "x", "n": 8}, None),
        ({"prompt": "x", "n": 9}, "n"),
        ({"prompt": "x", "best_of": 9}, "n"),
        ({"messages": [], "n": 9}, "n"),
        ({"prompt": ["x"] * 4, "n": 2}, None),
        ({"prompt": ["x"] * 4, "n": 3}, "prompt"),
        ({"prompt": [], "n": -1}, None),
        ({"prompt": {"a": 1}, "n": "9"}, None),
    ],
)
def test_sequences_of_one_request(body: dict[str, Any], param: str | None) -> None:
    try:
        bound_sequences(body, 8)
    except BadRequest as refusal:
        refused = refusal.param
    else:
        refused = None
    assert refused == param


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


@given(
    st.dictionaries(st.text(), st.text() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.none(), max_size=3),
    st.booleans(),
    st.sampled_from(ENCODINGS),
)
def test_what_json_reads_from_bytes_is_read_the_same(body: dict[str, Any], escaped: bool, encoding: str) -> None:
    raw = json.dumps(body, ensure_ascii=escaped).encode(encoding, "surrogatepass")
    assert repr(parse_object(in_utf8(raw))) == repr(json.loads(raw)) == repr(body)  # NaN is not equal to itself


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_a_number_of_more_than_64_bits_is_about_the_same(number: int) -> None:
    assert parse_object(b'{"max_tokens": %d}' % number)["max_tokens"] == pytest.approx(number)
    with pytest.raises(BadRequest, match="expected at most 16"):
        bound_sequences(parse_object(b'{"n": %d}' % abs(number)), 16)


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda piece: b'{"a": "' + piece + b'"}'))
def test_bytes_that_are_no_json_are_refused_where_json_refuses_them(raw: bytes) -> None:
    try:
        expected = json.loads(raw)
    except (ValueError, RecursionError):
        expected = None
    if isinstance(expected, dict):
        assert parse_object(in_utf8(raw)) == expected
    else:
        with pytest.raises(BadRequest):
            parse_object(in_utf8(raw))

import logging
from collections.abc import Callable
from itertools import product
from random import Random
from typing import Any

import pytest

from loadtest.errors import HttpError
from loadtest.workloads.tokenizer import BLANK_WORDS, ServedTokenizer
from tests.unit.loadtest.workloads.conftest import of_every_kind
from tests.unit.loadtest.workloads.served import CONTEXT_TOKENS, MODEL, Bytes, SentencePieceBpe, Target


@of_every_kind
def test_every_text_of_a_lead_and_pieces_has_the_tokens_it_should_have(target: Target) -> None:
    tokenizer = ServedTokenizer.of(target, MODEL)
    assert tokenizer.is_exact
    assert tokenizer.context_tokens == CONTEXT_TOKENS
    for count in [0, 1, 2, 3, 10, 100, 1000]:
        prompt = tokenizer.text(tokenizer.words(Random(count), count))
        expected = tokenizer.shortest_prompt + count
        assert len(target.tokens({"prompt": prompt})) == expected
        assert tokenizer.count(prompt) == expected


@of_every_kind
def test_words_of_several_tokens_are_not_used(target: Target) -> None:
    pieces = ServedTokenizer.of(target, MODEL).pieces
    lead = "x"
    without = len(target.tokens({"prompt": lead}))
    assert {len(target.tokens({"prompt": lead + piece})) - without for piece in pieces} == {1}
    assert 16 <= len(pieces) < len(BLANK_WORDS)


def test_what_is_put_before_a_prompt_counts() -> None:
    assert ServedTokenizer.of(Target(SentencePieceBpe()), MODEL).shortest_prompt > 1
    assert ServedTokenizer.of(Target(Bytes()), MODEL).shortest_prompt == 3


def test_the_check_sees_every_pair(target: Target) -> None:
    pieces = ServedTokenizer.of(target, MODEL).pieces
    pairs = [first + second for first, second in product(pieces, repeat=2)]
    assert any(all(pair in body["prompt"] for pair in pairs) for body in target.asked)


def refuses(status: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        raise HttpError(status, "no", {})

    return answer


def merges_a_pair(body: dict[str, Any]) -> dict[str, Any]:
    """A word is a token, except that two certain ones are one token where they meet."""
    tokens = body["prompt"].replace("boy air", "boyair").split(" ")
    return {"count": len(tokens), "token_strs": tokens}


class Answering:
    def __init__(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._answer = answer

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._answer(body)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refuses(404), "the target has no /tokenize (404: no)"),
        (refuses(405), "the target has no /tokenize (405: no)"),
        (lambda body: {"tokens": []}, "/tokenize answers without a count"),
        (lambda body: {"count": 5}, "no set of words is one token each"),
        (lambda body: {"count": 1, "token_strs": ["<unk>"] * 500}, "no set of words is one token each"),
        (merges_a_pair, "no set of words is one token each"),
    ],
)
def test_without_an_answer_to_rely_on_a_word_counts_as_a_token(
    answer: Callable[[dict[str, Any]], dict[str, Any]], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tokenizer = ServedTokenizer.of(Answering(answer), MODEL)
    assert caplog.messages == [f"lengths in tokens are approximate: {reason}"]
    assert not tokenizer.is_exact
    assert tokenizer.known(7) is None
    assert tokenizer.count("a prompt") is None
    assert len(tokenizer.text(tokenizer.words(Random(0), 9)).split(" ")) == 10


@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_target_that_cannot_answer_now_is_no_target_without_tokenize(status: int) -> None:
    with pytest.raises(HttpError, match=str(status)):
        ServedTokenizer.of(Answering(refuses(status)), MODEL)

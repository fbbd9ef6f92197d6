"""Texts of exactly so many tokens, for whatever model the target serves.

A text is a lead and then pieces: common English words with the blank before them, of which every one is one token
wherever it stands. So a text of a lead and n pieces has as many tokens as the lead and n more. Which words are such
pieces, and what the tokenizer or the chat template puts around a text (a BOS token, role markers), is asked of the
target's own `/tokenize` once per test, and then checked with a text in which every piece follows every other.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol

from loadtest.errors import HttpError, UnexpectedAnswer

logger = logging.getLogger(__name__)

Messages = Sequence[dict[str, str]]

_WORDS = Path(__file__).with_name("words.txt").read_text(encoding="ascii").split()
BLANK_WORDS = [" " + word for word in _WORDS]
_LETTERS = list("abcdefghijklmnopqrstuvwxyz")  # pieces of a tokenizer whose tokens are bytes or characters
_FEWEST_PIECES = 16  # with fewer, two texts would share more than a word or two at their start

_NO_SUCH_ENDPOINT = (404, 405, 501)


class Client(Protocol):
    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises: RequestFailed."""


@dataclass(frozen=True, slots=True)
class ServedTokenizer:
    """lead_tokens: of the lead alone; shortest_prompt: of a prompt that is only the lead, with what is put around it.

    context_tokens: how long prompt and answer together may be; None: not known.
    """

    pieces: Sequence[str]
    lead: str
    lead_tokens: int = 1
    shortest_prompt: int = 1
    context_tokens: int | None = None
    _model: str = ""
    _client: Client | None = field(default=None, compare=False)

    @classmethod
    def of(cls, client: Client, model: str) -> "ServedTokenizer":
        """Ask the target. Without a usable `/tokenize` a word counts as a token, and a warning says so.

        Raises: RequestFailed: the target could not be asked.
        """
        try:
            for lead, candidates in ((_WORDS[0], BLANK_WORDS), (_LETTERS[0], _LETTERS)):
                found = cls._calibrated(client, model, lead, candidates)
                if found is not None:
                    return found
            reason = "no set of words is one token each"
        except UnexpectedAnswer as error:
            reason = str(error)
        except HttpError as error:
            if error.status not in _NO_SUCH_ENDPOINT:
                raise
            reason = f"the target has no /tokenize ({error})"
        _warn(reason)
        return cls.approximate()

    @classmethod
    def approximate(cls) -> "ServedTokenizer":
        """A word counts as a token."""
        return cls(BLANK_WORDS, _WORDS[0])

    @classmethod
    def _calibrated(cls, client: Client, model: str, lead: str, candidates: Sequence[str]) -> "ServedTokenizer | None":
        def ask(prompt: str, **options: Any) -> dict[str, Any]:
            return _answer(client, {"model": model, "prompt": prompt, **options})

        text = lead + "".join(candidates)
        tokens = ask(text, add_special_tokens=False, return_token_strs=True).get("token_strs") or []
        pieces = _single_tokens(lead, candidates, [str(token) for token in tokens])
        if len(pieces) < _FEWEST_PIECES:
            return None
        bare = ask(lead)
        shortest = int(bare["count"])
        pairs = _every_pair(pieces)
        if int(ask(lead + "".join(pairs))["count"]) != shortest + len(pairs):
            return None
        return cls(
            pieces,
            lead,
            lead_tokens=int(ask(lead, add_special_tokens=False)["count"]),
            shortest_prompt=shortest,
            context_tokens=bare.get("max_model_len"),
            _model=model,
            _client=client,
        )

    def not_exact(self, reason: str) -> "ServedTokenizer":
        """The same, where lengths turned out to be other than asked for."""
        _warn(reason)
        return replace(self, _client=None)

    @property
    def is_exact(self) -> bool:
        return self._client is not None

    def known(self, tokens: int) -> int | None:
        """The count, where it is exact."""
        return tokens if self.is_exact else None

    def words(self, rng: Random, tokens: int) -> list[str]:
        """Pieces to follow the lead or each other; none if `tokens` is not positive."""
        return rng.choices(self.pieces, k=max(0, tokens))

    def text(self, pieces: Iterable[str]) -> str:
        return self.lead + "".join(pieces)

    def count(self, prompt: str) -> int | None:
        """Tokens of any prompt, with what is put around it; None: nobody knows."""
        if self._client is None:
            return None
        return int(_answer(self._client, {"model": self._model, "prompt": prompt})["count"])

    def count_chat(self, messages: Messages) -> int:
        """Tokens of a chat, with what the template puts around it; approximate: a word for a token."""
        if self._client is None:
            return sum(len(message["content"].split()) for message in messages)
        return int(_answer(self._client, {"model": self._model, "messages": list(messages)})["count"])


def _warn(reason: str) -> None:
    logger.warning("lengths in tokens are approximate: %s", reason)


def _answer(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/tokenize", body)
    if not isinstance(answer.get("count"), int):
        raise UnexpectedAnswer("/tokenize answers without a count")
    return answer


def _single_tokens(lead: str, candidates: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """Those candidates that are one token each in the text of lead and candidates, given that text's tokens.

    Tokenizers mark the blank before a word differently (`Ġ`, `▁`, or as it is): the letters are compared.
    """
    remaining = iter(tokens)
    parts_of = []
    for word in (lead, *candidates):
        letters = word.strip()
        parts: list[str] = []
        while len("".join(parts)) < len(letters):
            token = next(remaining, None)
            if token is None:
                return []
            parts.append("".join(letter for letter in token if letter.isascii() and letter.isalpha()))
        if "".join(parts) != letters:
            return []  # tokens of something else than our text
        parts_of.append(parts)
    return [word for word, parts in zip(candidates, parts_of[1:], strict=True) if len(parts) == 1]


def _every_pair(pieces: Sequence[str]) -> list[str]:
    """Pieces in an order in which each one follows each other, and itself, at least once."""
    order: list[str] = []
    for number, piece in enumerate(pieces):
        for other in pieces[number:]:
            order += (piece, other)
    return [*order, pieces[0]]

"""How long prompts and answers are, learned for each model from the `usage` of its answers.

Bytes per token is a ratio of two moving averages, not an average of ratios, so that a short prompt, of which the chat
template is the larger part, hardly counts beside a long one.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.prompt import Prompt

WEIGHT = 0.05  # of the newest answer: about the last 20 count
# Below it the chat template's tokens outweigh the text's.
MIN_BYTES = 256
# vLLM's own default for completions; the other endpoints have none.
COMPLETIONS_DEFAULT_TOKENS = 16


@dataclass
class _Averages:
    """Before the first answer: 4 bytes a token, as English text has it in today's vocabularies."""

    prompt_bytes: float = 1024.0
    prompt_tokens: float = 256.0
    output_tokens: float = 256.0


class TokenEstimate:
    """Remembers a model only when one of its answers was seen, so that invented names take no memory."""

    def __init__(self) -> None:
        self._averages: defaultdict[str, _Averages] = defaultdict(_Averages)

    def bytes_per_token(self, model: str) -> float:
        averages = self._of(model)
        return averages.prompt_bytes / averages.prompt_tokens

    def output_tokens(self, model: str, body: Mapping[str, Any], path: str) -> int:
        """What an answer to this body is expected to have, within the bounds that the client has set."""
        expected = max(round(self._of(model).output_tokens), _tokens(body.get("min_tokens"), 0))
        expected = min(expected, _limit(body, path, expected))
        return expected * _tokens(body.get("n"), 1)

    def learn(self, model: str, prompt: Prompt, prompt_tokens: int, output_tokens: int) -> None:
        """The last two are the answer's `usage`; `prompt` is what was thought of its request."""
        averages = self._averages[model]
        if prompt.text_bytes >= MIN_BYTES and prompt_tokens > 0:
            averages.prompt_bytes += WEIGHT * (prompt.text_bytes - averages.prompt_bytes)
            averages.prompt_tokens += WEIGHT * (prompt_tokens - averages.prompt_tokens)
        averages.output_tokens += WEIGHT * (output_tokens - averages.output_tokens)

    def _of(self, model: str) -> _Averages:
        return self._averages.get(model) or _Averages()


def _limit(body: Mapping[str, Any], path: str, otherwise: int) -> int:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        if body.get(name) is not None:
            return _tokens(body[name], otherwise)
    return COMPLETIONS_DEFAULT_TOKENS if path == "/v1/completions" else otherwise


def _tokens(value: Any, otherwise: int) -> int:
    """Client's number; vLLM refuses what is none, and no request weighs more than the largest of contexts."""
    return min(value, 1 << 20) if isinstance(value, int) and value > 0 else otherwise

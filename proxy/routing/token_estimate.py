"""How long prompts and answers are, learned for each model from the `usage` of its answers.

Bytes per token is a ratio of two moving averages, not an average of ratios, so that a short prompt, of which the chat
template is the larger part, hardly counts beside a long one.
"""

from collections import defaultdict
from dataclasses import dataclass

from proxy.request.prompt import Prompt

WEIGHT = 0.05  # of the newest answer: about the last 20 count
# Below it the chat template's tokens outweigh the text's.
MIN_BYTES = 256


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

    def output_tokens(self, model: str, limit: int | None) -> int:
        """What an answer is expected to have, at most the client's `limit`, which vLLM has yet to check."""
        expected = round(self._of(model).output_tokens)
        return expected if limit is None else max(min(expected, limit), 0)

    def learn(self, model: str, prompt: Prompt, prompt_tokens: int, output_tokens: int) -> None:
        """The last two are the answer's `usage`; `prompt` is what was thought of its request."""
        averages = self._averages[model]
        if prompt.text_bytes >= MIN_BYTES and prompt_tokens > 0:
            averages.prompt_bytes += WEIGHT * (prompt.text_bytes - averages.prompt_bytes)
            averages.prompt_tokens += WEIGHT * (prompt_tokens - averages.prompt_tokens)
        averages.output_tokens += WEIGHT * (output_tokens - averages.output_tokens)

    def _of(self, model: str) -> _Averages:
        return self._averages.get(model) or _Averages()

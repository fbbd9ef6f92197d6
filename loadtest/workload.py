"""What the users ask. A request depends on the settings and its index alone, so a seed repeats the same load.

Prompts of a chosen length are made of common English words (words.txt), each one token of SmolLM2's vocabulary, so
that n words are n tokens. With another tokenizer the length is approximate, and a chat template adds its own.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.settings import LoadTestSettings, WorkloadName

_WORDS = Path(__file__).with_name("words.txt").read_text(encoding="ascii").split()

_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    path: str
    body: dict[str, Any]


def curl(settings: LoadTestSettings, model: str, index: int) -> CompletionRequest:
    """The curl of the README: the same four tokens every time, which prefix caching makes cheap from the second on."""
    return _completion(model, "San Francisco is a", max_tokens=settings.loadtest_output_tokens)


def fixed(settings: LoadTestSettings, model: str, index: int) -> CompletionRequest:
    """Input and output of the chosen lengths; prompts share no more than a word or two at their start."""
    return _completion(model, _prompt(settings, index), **_exact_output(settings))


def chat(settings: LoadTestSettings, model: str, index: int) -> CompletionRequest:
    """One turn of a chat whose message has the chosen length."""
    messages = [{"role": "user", "content": _prompt(settings, index)}]
    body = {"model": model, "messages": messages, **_exact_output(settings), **_STREAMED}
    return CompletionRequest("/v1/chat/completions", body)


WORKLOADS: Mapping[WorkloadName, Callable[[LoadTestSettings, str, int], CompletionRequest]] = {
    "curl": curl,
    "fixed": fixed,
    "chat": chat,
}


def _completion(model: str, prompt: str, **options: Any) -> CompletionRequest:
    return CompletionRequest("/v1/completions", {"model": model, "prompt": prompt, **options, **_STREAMED})


def _exact_output(settings: LoadTestSettings) -> dict[str, Any]:
    # vLLM's ignore_eos: without it the model decides the length, and two runs would not be comparable.
    return {"max_tokens": settings.loadtest_output_tokens, "ignore_eos": True}


def _prompt(settings: LoadTestSettings, index: int) -> str:
    words = random.Random(f"{settings.loadtest_seed}/{index}")
    return " ".join(words.choices(_WORDS, k=settings.loadtest_input_tokens))

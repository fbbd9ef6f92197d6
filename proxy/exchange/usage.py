"""The answer's `usage` as one server would have counted it: which tokens of the prompt came out of a prefix cache.

To the consumer every token whose KV cache was moved to it is a cached one. One server in its place would have found
what the producer found, or what the consumer already held: the longer of the two, because it would have seen the
prompts and the answers of both. So the count is right as long as no cache has dropped what one server of their size
would have kept, and no other instance has seen more of the prompt. Nothing else of an answer is touched.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

_USAGE = b'"usage":'
_MOVED, _LEFT_OUT = (
    re.compile(rb'"kv_transfer_params":\s*\{[^{}]*"%s":\s*(\d+)' % name) for name in (b"tokens", b"left_out")
)
_FROM_STORE = re.compile(rb'"kv_transfer_params":\s*\{[^{}]*"store_tokens":\s*(\d+)')
_COUNTED = {name: re.compile(rb'"%s":\s*(\d+)' % name.encode()) for name in ("prompt_tokens", "completion_tokens")}
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class PromptCache:
    """Tokens of one prompt that were found in a prefix cache, and those that were added to it, if that is counted."""

    found: int = 0
    added: int | None = None


def of_prefill(answer: bytes) -> PromptCache | None:
    """What the producer's answer says, None when it says nothing."""
    try:
        content = json.loads(answer)
    except ValueError:
        return None
    usage = content.get("usage") if isinstance(content, dict) else None
    details = _details(usage) if isinstance(usage, dict) else None
    return details.cache if details else None


def from_store(answer: bytes) -> int | None:
    """Tokens of the prompt that the producer says it has loaded from a KV store; None where it has none."""
    found = _FROM_STORE.search(answer)
    return int(found[1]) if found else None


def counts_cached(answer: bytes) -> bool:
    """Whether the last `usage` of a whole answer, or of some events of one, may hold such a count: not if it is False.

    From the end: events of tokens have a `usage` too, and it is null.
    """
    start = answer.rfind(_USAGE)
    return start >= 0 and (
        answer.find(b'"cached_tokens"', start) >= 0 or answer.find(b'"cache_read_input_tokens"', start) >= 0
    )


def tokens(answer: bytes, name: str) -> int | None:
    """What a whole answer says of its `prompt_tokens` or `completion_tokens`, None when it says nothing."""
    start = answer.rfind(_USAGE)
    found = _COUNTED[name].search(answer, start) if start >= 0 else None
    return int(found[1]) if found else None


def corrected(answer: bytes, producer: PromptCache | None, moved: int | None, left_out: int = 0) -> bytes:
    """A whole answer, or some whole events of one, with the right count.

    Args: producer: what it found, None when it did not say; moved: tokens of the prompt that came from it, None when
    the consumer's connector has not said so at the answer's beginning; left_out: those that neither came nor were held,
    because the consumer computes them anyway. A whole answer has both at its end too.
    """
    start = answer.rfind(_USAGE)  # in a string its quotes would be escaped, and what a client can name comes before it
    if start < 0:
        return answer
    start += len(_USAGE)
    start += len(answer[start:]) - len(answer[start:].lstrip())
    text = answer[start:].decode()
    try:
        usage, length = _DECODER.raw_decode(text)
    except ValueError:  # not JSON after all
        return answer
    details = _details(usage) if isinstance(usage, dict) else None
    if details is None:
        return answer
    if moved is None and (at_the_end := _MOVED.search(answer, start)):
        moved = int(at_the_end[1])
        left_out = int(not_moved[1]) if (not_moved := _LEFT_OUT.search(answer, start)) else 0
    # When nothing came, nobody says what was held.
    held = max(0, details.prompt_tokens - moved - left_out) if moved else 0
    details.set(_of_one_server(producer or PromptCache(), held))
    end = start + len(text[:length].encode())
    return answer[:start] + json.dumps(usage, separators=(",", ":")).encode() + answer[end:]


def _of_one_server(producer: PromptCache, held: int) -> PromptCache:
    found = max(producer.found, held)
    added = None if producer.added is None else max(0, producer.added - (found - producer.found))
    return PromptCache(found, added)


@dataclass(frozen=True)
class _Details:
    """Where one API keeps the counts: in `fields`, which is a part of the usage object or the object itself."""

    prompt_tokens: int
    fields: dict[str, Any]
    found: str
    added: str

    @property
    def cache(self) -> PromptCache:
        return PromptCache(self.fields[self.found], self.fields.get(self.added))

    def set(self, cache: PromptCache) -> None:
        self.fields[self.found] = cache.found
        if cache.added is not None and self.fields.get(self.added) is not None:
            self.fields[self.added] = cache.added
        if self.found.startswith("cache_read"):  # Anthropic's three numbers add up to the prompt
            written = self.fields.get(self.added) or 0
            self.fields["input_tokens"] = max(0, self.prompt_tokens - cache.found - written)


def _details(usage: dict[str, Any]) -> _Details | None:
    """None for a usage without counts of cached tokens, as in the first events of a stream."""
    if (found := usage.get("cache_read_input_tokens")) is not None:
        added = "cache_creation_input_tokens"
        total = usage["input_tokens"] + found + (usage.get(added) or 0)
        return _Details(total, usage, "cache_read_input_tokens", added)
    for tokens, part, added in (
        ("prompt_tokens", "prompt_tokens_details", "created_cache_tokens"),
        ("input_tokens", "input_tokens_details", "cache_write_tokens"),
    ):
        fields = usage.get(part)
        if isinstance(fields, dict) and fields.get("cached_tokens") is not None:
            return _Details(usage[tokens], fields, "cached_tokens", added)
    return None

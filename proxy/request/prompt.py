"""What dispatch has to know of a prompt: about how many tokens it is, and which prefixes it shares with others.

Nothing is tokenized. Token ids are counted; text counts by its UTF-8 bytes, because bytes per token differ less between
languages than characters per token do. What precedes the end of each whole block of BLOCK_BYTES has a digest, so that
two prompts share their first n blocks when their n-th digests are equal. All of it is an estimate, which can cost time
but never a wrong answer: a shape that is not known counts as no tokens and no blocks, and none raises.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

Block = bytes | int

BLOCK_BYTES = 512  # about 128 tokens of text, and exactly 128 token ids
DIGEST_BYTES = 8
MAX_BLOCKS = 1024  # prefixes are told apart up to half a megabyte; beyond it prompts only count
MAX_VALUES = 32768  # of the JSON; what follows is not looked at, because a million empty lists are no prompt
MEDIA_TOKENS = 512  # an image of about 640 by 640 pixels in Qwen2.5-VL; what the bytes of a file weigh is unknown

# In the order of their place in vLLM's prompt: a chat template puts the tools in front.
_FIELDS = {
    "/v1/completions": ("prompt",),
    "/v1/chat/completions": ("tools", "messages"),
    "/v1/responses": ("instructions", "tools", "input"),
    "/v1/messages": ("system", "tools", "messages"),
}
_MEDIA = frozenset(
    {
        *("image", "image_url", "image_embeds", "input_image", "document", "file", "input_file"),
        *("audio_url", "audio_embeds", "input_audio", "video_url"),
    }
)


@dataclass(frozen=True)
class Prompt:
    """tokens: of all of it. blocks: digests of ever longer prefixes, each longer by `block_tokens` than the last.

    text_bytes: 0 unless all of it is text, which is when an answer's `usage` teaches the bytes per token.
    """

    tokens: int = 0
    blocks: Sequence[Block] = ()
    block_tokens: float = 0.0
    text_bytes: int = 0

    def missing(self, matched: int) -> int:
        """Tokens to compute where the first `matched` blocks are held: at least the last one, as vLLM does it."""
        return max(self.tokens - int(matched * self.block_tokens), min(self.tokens, 1))


EMPTY = Prompt()


def read_prompt(body: Mapping[str, Any], path: str, bytes_per_token: float) -> Prompt:
    """The prompt in a request's parsed body; `path` is the endpoint's."""
    pieces = _Pieces()
    for field in _FIELDS.get(path, ()):
        pieces.add(body.get(field))
    if body.get("prompt_embeds"):
        pieces.add_media(body["prompt_embeds"])
    data = b"".join(pieces.data)
    prefix_tokens = pieces.token_ids + pieces.text_bytes / bytes_per_token
    return Prompt(
        tokens=round(prefix_tokens) + pieces.media * MEDIA_TOKENS,
        blocks=_digests(_cache_of(body), data),
        block_tokens=prefix_tokens * BLOCK_BYTES / len(data) if data else 0.0,
        text_bytes=0 if pieces.token_ids or pieces.media else pieces.text_bytes,
    )


class _Pieces:
    """What the prompt is made of, in order. Keys are part of it: their share stands for that of the chat template."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.text_bytes = 0
        self.token_ids = 0
        self.media = 0
        self._values_left = MAX_VALUES

    def add(self, value: Any) -> None:
        stack = [value]
        while stack:
            value = stack.pop()
            if isinstance(value, str):
                text = value.encode("utf-8", "surrogatepass")
                self.text_bytes += len(text)
                self.data += (text, b"\0")
            elif isinstance(value, list):
                if value and isinstance(value[0], int):
                    self._add_token_ids(value)
                else:
                    stack += self._next_values(value)
            elif isinstance(value, dict):
                if isinstance(kind := value.get("type"), str) and kind in _MEDIA:
                    self.add_media(value)
                else:
                    stack += self._next_values(chain.from_iterable(value.items()))

    def _next_values(self, values: Iterable[Any]) -> list[Any]:
        """In the order of a stack."""
        taken = list(islice(values, self._values_left))
        self._values_left -= len(taken)
        return taken[::-1]

    def add_media(self, value: Any) -> None:
        """A digest takes its place, so that it neither counts as text nor fills blocks."""
        self.media += 1
        try:
            self.data.append(hashlib.blake2b(json.dumps(value).encode(), digest_size=DIGEST_BYTES).digest())
        except RecursionError:
            return

    def _add_token_ids(self, ids: list[Any]) -> None:
        try:
            self.data.append(array("I", ids).tobytes())
        except (TypeError, OverflowError):
            return  # vLLM refuses them
        self.token_ids += len(ids)


def _cache_of(body: Mapping[str, Any]) -> bytes:
    """vLLM keeps each adapter's and each salt's blocks apart."""
    names = [value for value in (body.get("model"), body.get("cache_salt")) if isinstance(value, str)]
    return "\0".join([*names, ""]).encode("utf-8", "surrogatepass")


def _digests(start: bytes, data: bytes) -> Sequence[Block]:
    """Python's own hash, keyed anew in each process: far quicker than a cryptographic one, and nobody can aim at it."""
    digest, blocks = hash(start), []
    for end in range(BLOCK_BYTES, min(len(data), MAX_BLOCKS * BLOCK_BYTES) + 1, BLOCK_BYTES):
        digest = hash((digest, data[end - BLOCK_BYTES : end]))
        blocks.append(digest)
    return blocks

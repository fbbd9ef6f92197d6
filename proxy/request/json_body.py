"""A client's body as a JSON object, within what one event loop can take: parsing stops everything else meanwhile.

Size alone is no measure. 32 MB of text or of base64 are one string; 32 MB of `[],[],…` are 11 million lists, which take
seconds and 800 MB. So what costs is counted before it is parsed, as bytes, inside strings too: the bounds are far above
what a prompt of half a million tokens has.
"""

import codecs
import json
from typing import Any

import orjson

from proxy.errors import BadRequest

# Values, names and containers. Each bound is a fraction of a second and some ten megabytes.
_MOST = {b",": 1_000_000, b":": 250_000, b"[": 250_000, b"{": 250_000}
_SURROGATES = "surrogatepass"  # json.loads on bytes takes halves of surrogate pairs, and so vLLM does


def in_utf8(raw: bytes) -> bytes:
    """The same text without a BOM, and in UTF-8 if it came in UTF-16 or UTF-32, all of which vLLM reads: `json.loads`
    on bytes looks for them. What goes on to it has members appended, as bytes.

    Raises: BadRequest: it is not what it looks like.
    """
    if raw.startswith(b'{"') or (encoding := json.detect_encoding(raw)) == "utf-8":  # as nearly all do
        return raw
    if encoding == "utf-8-sig":
        return raw[len(codecs.BOM_UTF8) :]
    try:
        return raw.decode(encoding, _SURROGATES).encode("utf-8", _SURROGATES)
    except UnicodeError as error:
        raise BadRequest(f"The body is not valid JSON in {encoding.upper()}: {error}.") from error


def parse_object(raw: bytes) -> dict[str, Any]:
    """Args: raw: in UTF-8, without a BOM.
    Raises: BadRequest: not JSON, not in UTF-8, nested too deeply, too many values, or not an object.
    """
    for mark, most in _MOST.items():
        if len(raw) > most and raw.count(mark) > most:
            raise BadRequest(f"The body holds more than {most} '{mark.decode()}'.")
    try:
        body = _parsed(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body is not valid JSON in UTF-8: {error}.") from error
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    return body


def _parsed(raw: bytes) -> Any:
    """As `json.loads` parses it, which takes more (NaN, halves of surrogate pairs, deeper nesting) and says better what
    is wrong, but three times as long. Numbers of more than 64 bits are floats where orjson takes the body.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw.decode("utf-8", _SURROGATES))


def bound_sequences(body: dict[str, Any], most: int) -> None:
    """One request takes one place in the queue, and is `n` sequences for each of its prompts.

    Raises: BadRequest: they are more than `most`.
    """
    prompts = max(_prompts(body.get("prompt")), _prompts(body.get("prompt_embeds")))
    choices = max(_count(body.get("n")), _count(body.get("best_of")))
    if prompts * choices > most:
        what = "n" if prompts == 1 else "prompt"
        raise BadRequest(f"{prompts} prompts with {choices} choices each: expected at most {most} together.", what)


def _prompts(value: Any) -> int:
    """A list of integers is one prompt, as token ids."""
    return len(value) if isinstance(value, list) and value and not isinstance(value[0], int) else 1


def _count(value: Any) -> float:
    """Of more than 64 bits it is a float."""
    return value if isinstance(value, int | float) and value > 1 else 1

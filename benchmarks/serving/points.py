"""What is asked of a stack at one point of a sweep, as the command line writes it: lengths, and a rate.

`512/128@0.4` are prompts of 512 tokens with answers of 128, 0.4 a second in the mean. `64/200+8000/8:0.1@2` mixes two
kinds of requests, 2 a second in all: a tenth of them are prompts of 8,000 tokens with answers of 8, which arrive while
the others, the streams, go on.
"""

import re
from dataclasses import dataclass

_LENGTHS = r"(\d+)/(\d+)"
_RATE = r"(?:\d+\.?\d*|\.\d+)"
_SHAPE = re.compile(rf"{_LENGTHS}(?:\+{_LENGTHS}:(0?\.\d+))?")
STREAMS, PROMPTS = "streams", "long prompts"


@dataclass(frozen=True)
class Lengths:
    """Of one request, in tokens."""

    input: int
    output: int

    def __str__(self) -> str:
        return f"{self.input}/{self.output}"


@dataclass(frozen=True)
class Shape:
    """`share` of the requests have the lengths of `prompts`, all others those of `streams`."""

    streams: Lengths
    prompts: Lengths | None = None
    share: float = 0.0

    def __str__(self) -> str:
        return str(self.streams) + (f"+{self.prompts}:{self.share:g}" if self.prompts else "")

    @property
    def longest(self) -> int:
        """Tokens of its longest request, prompt and answer together."""
        return max(lengths.input + lengths.output for lengths in (self.streams, self.prompts or self.streams))

    def describe(self) -> str:
        words = f"{self.streams.input:,} tokens in, {self.streams.output:,} out"
        if self.prompts:
            words += f", while prompts of {self.prompts.input:,} arrive ({self.share:.0%} of the requests)"
        return words


@dataclass(frozen=True)
class Point:
    shape: Shape
    rate: float  # requests a second, of both kinds together

    def __str__(self) -> str:
        return f"{self.shape}@{self.rate:g}"

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.@]", "-", str(self))


def points(text: str) -> tuple[Point, ...]:
    """Of a shape and its rates, e.g. `512/128@0.2,0.4`. Raises: ValueError: with what would be right."""
    shape_text, _, rates = text.partition("@")
    shape = parse_shape(shape_text)
    if not re.fullmatch(rf"{_RATE}(,{_RATE})*", rates) or not all(float(rate) > 0 for rate in rates.split(",")):
        raise ValueError(f"{text!r}: expected requests a second after @, with commas, e.g. 512/128@0.2,0.4")
    return tuple(Point(shape, float(rate)) for rate in rates.split(","))


def parse_shape(text: str) -> Shape:
    """Raises: ValueError."""
    found = _SHAPE.fullmatch(text)
    if found is None or not all(int(length) for length in found.groups()[:4] if length):
        raise ValueError(f"{text!r}: expected INPUT/OUTPUT tokens, e.g. 512/128, or a mixture, e.g. 64/200+8000/8:0.1")
    first, second = Lengths(int(found[1]), int(found[2])), None
    if found[3]:
        second = Lengths(int(found[3]), int(found[4]))
        if second == first or not 0 < float(found[5]) < 1:
            raise ValueError(f"{text!r}: expected two different kinds of requests, and a share between 0 and 1")
    return Shape(first, second, float(found[5] or 0))

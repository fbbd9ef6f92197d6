"""The traffic of the command line: a point as `make bench` has it, a trace, or a load test's requests.jsonl."""

from pathlib import Path
from random import Random

from benchmarks.serving.points import Lengths, Point, points
from loadtest.runs.requests_file import SavedRequests
from planner.sizing.workload import Draw, Kind, MadeUp, Recorded, Workload
from planner.trace import Arrival, UnreadableTrace, prompt_of, read_trace
from stack.configuration.environment import ConfigError


def of_point(text: str) -> MadeUp:
    """Raises: ValueError."""
    found = points(text)
    if len(found) != 1:
        raise ValueError(f"{text!r}: expected one rate")
    return made_up(found[0])


def made_up(point: Point) -> MadeUp:
    shape = point.shape
    kinds = [_kind(1 - shape.share, shape.streams)]
    if shape.prompts:
        kinds.append(_kind(shape.share, shape.prompts))
    return MadeUp(kinds, point.rate, shape.describe())


def of_trace(file: Path) -> Workload:
    """Raises: ConfigError."""
    try:
        found = read_trace(file)
    except UnreadableTrace as error:
        raise ConfigError([str(error)]) from error
    if len(found) < 2:
        raise ConfigError([f"--trace={str(file)!r}: expected two requests or more"])
    return Recorded(found, f"the trace {file.name}")


def of_requests(file: Path) -> Workload:
    """Lengths and times; which prompts began alike is not written there, so that none share a prefix.

    Raises: ConfigError.
    """
    found: list[Arrival] = []
    saved = SavedRequests(file)
    try:
        for number, record in enumerate(saved):
            tokens = record.prompt_tokens or record.wanted_input_tokens
            answer = record.output_tokens or record.wanted_output_tokens
            if tokens and answer:
                blocks = range(number * 1_000_000, number * 1_000_000 + -(-tokens // 512))
                found.append(Arrival(record.scheduled, prompt_of(tokens, blocks), answer))
    except OSError as error:
        raise ConfigError([f"--requests-file={str(file)!r}: {error.strerror}"]) from error
    if len(found) < 2:
        raise ConfigError([f"--requests-file={str(file)!r}: expected two requests or more with known lengths"])
    return Recorded(sorted(found, key=lambda arrival: arrival.at_s), f"the requests of {file.name}")


def _kind(share: float, lengths: Lengths) -> Kind:
    return Kind(share, _always(lengths.input), _always(lengths.output))


def _always(tokens: int) -> Draw:
    def draw(dice: Random) -> int:
        return tokens

    return draw

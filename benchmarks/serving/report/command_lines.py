"""Command lines of vLLM servers, as a page shows them: options with their values, no ports, no folders of a machine."""

from collections.abc import Iterable, Mapping, Sequence

from benchmarks import program

# Where a server listens says nothing about how it serves.
LEFT_OUT = ("--host", "--port")


def options(words: Iterable[str]) -> list[str]:
    """`["vllm…", "--dtype", "auto", "--enforce-eager"]` -> `["vllm…", "--dtype auto", "--enforce-eager"]`."""
    found: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not found:
            found.append([])
        found[-1].append(program.shown(word))
    return [" ".join(parts) for parts in found if parts[0] not in LEFT_OUT]


def shared(servers: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
    """What every server has, in the order of the first one's line. `servers`: by side, of each its options."""
    lines = [line for side in servers.values() for line in side]
    return [option for option in lines[0] if all(option in line for line in lines)] if lines else []


def own(servers: Mapping[str, Sequence[Sequence[str]]], side: str) -> list[str]:
    """What servers of `side` have that not every server has."""
    common = set(shared(servers))
    return list(dict.fromkeys(option for line in servers[side] for option in line if option not in common))

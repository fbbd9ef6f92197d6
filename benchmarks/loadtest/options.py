"""What a run of the load test's benchmarks can be told on its command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.option_types import Tuple, count, counts, one_of
from stack.configuration.settings import EMBEDDED_MODEL, REPOSITORY

MEASUREMENTS = ("accuracy", "limit", "agreement")
TARGETS = ("scripted", "stack")


@dataclass(frozen=True)
class Options:
    measurements: tuple[str, ...]
    rounds: int
    streams: int
    accuracy_seconds: int
    workers: tuple[int, ...]
    limit_seconds: int
    chunk_rates: tuple[int, ...]
    stream_rates: tuple[int, ...]
    targets: tuple[str, ...]
    agreement_rate: float
    agreement_requests: int
    scripted_rate: float
    scripted_requests: int
    input_tokens: int
    output_tokens: int
    vllm_python: Path
    tokenizer: Path
    commit: str
    out: Path
    logs: Path
    time_limit: float


def parse(arguments: Sequence[str]) -> Options:
    """Exits with status 2 and one line for an option that cannot work."""
    parser = _parser()
    options = Options(**vars(parser.parse_args(arguments)))
    if "agreement" in options.measurements:
        for name in ("vllm_python", "tokenizer"):
            path = getattr(options, name)
            if not path.exists():
                parser.error(f"--{name.replace('_', '-')}={str(path)!r}: not there; `make up` makes the default")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loadtest", description=__doc__)
    add = parser.add_argument
    add("measurements", nargs="+", choices=MEASUREMENTS, action=Tuple)
    add("--rounds", type=count, default=5, help="accuracy, agreement: so often")
    add("--streams", type=count, default=200, help="accuracy: at once")
    add("--accuracy-seconds", type=count, default=30, help="accuracy: of one load")
    add("--workers", type=counts, default=(1, 2), help="limit: Locust's workers, with commas; 1: a single process")
    add("--limit-seconds", type=count, default=12, help="limit: of one load")
    add(
        "--chunk-rates", type=counts, default=(4000, 8000, 12000, 16000, 20000, 24000, 32000), help="limit: with commas"
    )
    add("--stream-rates", type=counts, default=(200, 400, 800, 1200, 1600, 2400), help="limit: with commas")
    add("--targets", type=one_of(TARGETS), default=TARGETS, help="agreement: what is loaded, with commas")
    add("--agreement-rate", type=float, default=0.7, help="agreement: requests/s to the stack")
    add("--agreement-requests", type=count, default=50, help="agreement: of one load of the stack")
    add("--scripted-rate", type=float, default=15.0, help="agreement: requests/s to the scripted server")
    add("--scripted-requests", type=count, default=300, help="agreement: of one load of the scripted server")
    add("--input-tokens", type=count, default=256, help="agreement: of a prompt")
    add("--output-tokens", type=count, default=64, help="agreement: of an answer")
    vllm = REPOSITORY / ".stack" / "venv" / "vllm" / "bin" / "python"
    add("--vllm-python", type=Path, default=vllm, help="agreement: interpreter of an environment with vLLM")
    model = REPOSITORY / ".stack" / "models" / EMBEDDED_MODEL
    add("--tokenizer", type=Path, default=model, help="agreement: the served model's, for the prompts of vLLM")
    add("--commit", default="", help="of the code, where git cannot tell")
    add("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the results")
    add("--logs", type=Path, default=Path(".stack/logs/benchmarks"), help="folder of the servers' logs")
    add("--time-limit", type=float, default=3600.0, help="seconds, after which the run writes what it has and ends")
    return parser

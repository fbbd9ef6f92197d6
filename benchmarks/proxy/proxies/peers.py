"""Each proxy as its users start it, and where it comes from. One whose program is not given is left out."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.errors import CannotStart
from benchmarks.processes import Launch
from benchmarks.proxy.cpus import pinned
from benchmarks.proxy.options import Options
from benchmarks.proxy.upstreams.upstream import LOOPBACK, Upstream
from stack.configuration.settings import REPOSITORY

VERSIONS = (
    "import sys; from importlib.metadata import version; print(', '.join(f'{n} {version(n)}' for n in sys.argv[1:]))"
)


@dataclass(frozen=True)
class Peer:
    """`command` is for a port and an upstream, without the CPUs; `folder`: where it runs.

    `console`: whether its console is open while it is under load.
    """

    name: str
    workers: int
    version: str
    command: Callable[[int, Upstream], tuple[str, ...]]
    variables: Callable[[int, Upstream], dict[str, str]]
    folder: Path | None = None
    console: bool = False

    def launch(self, port: int, upstream: Upstream, cpus: tuple[int, ...]) -> Launch:
        command = pinned(cpus[: self.workers], *self.command(port, upstream))
        return Launch(self.name, command, {**_environment(), **self.variables(port, upstream)}, self.folder)


def peers(options: Options) -> list[Peer]:
    """Those of `options.peers` whose program is given. Raises: CannotStart: it cannot run."""
    known: dict[str, Callable[[], Peer | None]] = {
        "ours": lambda: _ours(options, "ours", 1),
        "ours-console-open": lambda: replace(_ours(options, "ours-console-open", 1), console=True),
        "ours-before": lambda: _before(options),
        "ours-2-workers": lambda: _ours(options, "ours-2-workers", 2),
        "bare": _bare,
        "vllm-router": lambda: _vllm_router(options.vllm_router),
        "seed": lambda: _seed(options),
        "toy": lambda: _toy(options),
        "mooncake-example": lambda: _mooncake_example(options),
    }
    return [peer for name in options.peers if (peer := known[name]()) is not None]


def seed_program(text: str, port: int, upstream: Upstream) -> str:
    """The proxy of `text`, a program or a page in Markdown, with the addresses put in, as it tells its readers to.

    Raises: CannotStart: there is no such program in it.
    """
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL) or [text]
    programs = [block for block in blocks if "Quart(__name__)" in block]
    if len(programs) != 1:
        raise CannotStart(f"--seed-proxy: expected one program with Quart(__name__), found {len(programs)}")
    program = str(programs[0])
    for pattern, replacement in (
        (r"http://[^/'\"]+:8100", upstream.prefill_url),
        (r"http://[^/'\"]+:8200", upstream.decode_url),
        (r"port=8000", f"port={port}"),
        (r"0\.0\.0\.0", LOOPBACK),
    ):
        program, replaced = re.subn(pattern, replacement, program)
        if not replaced:
            raise CannotStart(f"--seed-proxy: expected {pattern} in its program")
    return program


def _ours(options: Options, name: str, workers: int) -> Peer:
    variables = {
        "PROXY_WORKERS": str(workers),
        "PROXY_LOCAL_PROMPT_TOKENS": "0",  # every request goes over both legs, as with the others
        "PROXY_SHUTDOWN_GRACE_S": "1",
        **options.variables_of_ours,
    }
    return Peer(
        name,
        workers,
        "",
        lambda port, upstream: (options.ours_python or sys.executable, "-m", "proxy"),
        lambda port, upstream: {**variables, "PROXY_PORT": str(port), "ETCD_ENDPOINT": upstream.etcd},
        options.ours_from,
    )


def _before(options: Options) -> Peer | None:
    if options.before is None:
        return None
    return _ours(replace(options, ours_from=options.before), "ours-before", 1)


def _bare() -> Peer:
    def command(port: int, upstream: Upstream) -> tuple[str, ...]:
        return (
            sys.executable,
            "-m",
            "benchmarks.proxy.proxies.bare_proxy",
            str(port),
            upstream.prefill_url,
            upstream.decode_url,
        )

    libraries = _versions(sys.executable, "aiohttp", "uvloop")
    return Peer("bare", 1, f"benchmarks/proxy/proxies/bare_proxy.py on {libraries}", command, _nothing, REPOSITORY)


def _vllm_router(program: str) -> Peer | None:
    if not program:
        return None
    python = str(Path(program).parent / "python")

    def command(port: int, upstream: Upstream) -> tuple[str, ...]:
        return (
            *(program, "--port", str(port), "--prometheus-port", str(port + 1)),
            *("--vllm-pd-disaggregation", "--kv-connector", "mooncake"),
            *("--prefill", upstream.prefill_url, str(upstream.prefill_port), "--decode", upstream.decode_url),
        )

    return Peer("vllm-router", 1, _versions(python, "vllm-router"), command, _nothing)


def _seed(options: Options) -> Peer | None:
    if options.seed_proxy is None:
        return None
    text = options.seed_proxy.read_text()

    def command(port: int, upstream: Upstream) -> tuple[str, ...]:
        return (_python(options), "-c", seed_program(text, port, upstream))

    libraries = _versions(_python(options), "quart", "hypercorn", "aiohttp")
    return Peer("seed", 1, f"the program of vLLM's first Mooncake guide on {libraries}", command, _nothing)


def _toy(options: Options) -> Peer | None:
    script = options.toy_proxy
    if script is None:
        return None

    def command(port: int, upstream: Upstream) -> tuple[str, ...]:
        prefill = ("--prefiller-host", LOOPBACK, "--prefiller-port", str(upstream.prefill_port))
        decode = ("--decoder-host", LOOPBACK, "--decoder-port", str(upstream.decode_port))
        return (_python(options), str(script.absolute()), "--port", str(port), *prefill, *decode)

    return Peer("toy", 1, _version_of_vllms(options, script), command, _nothing)


def _mooncake_example(options: Options) -> Peer | None:
    script = options.mooncake_proxy
    if script is None:
        return None

    def command(port: int, upstream: Upstream) -> tuple[str, ...]:
        prefill = ("--prefill", upstream.prefill_url, str(upstream.prefill_port))
        decode = ("--decode", upstream.decode_url)
        return (_python(options), str(script.absolute()), "--port", str(port), *prefill, *decode)

    return Peer("mooncake-example", 1, _version_of_vllms(options, script), command, _nothing)


def _version_of_vllms(options: Options, script: Path) -> str:
    libraries = _versions(_python(options), "fastapi", "uvicorn", "uvloop", "httptools", "httpx")
    return f"{script.name} of vLLM {options.vllm_version} on {libraries}"


def _python(options: Options) -> str:
    return options.peer_python or sys.executable


def _nothing(port: int, upstream: Upstream) -> dict[str, str]:
    return {}


def _environment() -> dict[str, str]:
    """What a proxy inherits: no settings of the shell's stack, and no HTTP proxy between it and the upstreams."""
    dropped = re.compile(r"(PROXY_.*|.*_PROXY|.*_proxy|OPENAI_API_KEY|OTEL_.*)")
    return {name: value for name, value in os.environ.items() if not dropped.fullmatch(name)}


def _versions(python: str, *distributions: str) -> str:
    """Raises: CannotStart: one of them is not there."""
    result = subprocess.run([python, "-c", VERSIONS, *distributions], capture_output=True, text=True, check=False)
    if result.returncode:
        raise CannotStart(f"{python}: expected an environment with {', '.join(distributions)}")
    return str(result.stdout).strip()

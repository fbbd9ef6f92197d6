"""Which data-parallel engines one vLLM server runs, as vLLM's own arguments say it.

A server may run several engines, each with the whole model and a KV cache of its own, or be one of several servers of
such engines (vLLM's "data parallel deployment"):

internal  one server with all engines; vLLM chooses one for each request that does not name one
hybrid    several servers (`--data-parallel-hybrid-lb`), each with `--data-parallel-size-local` engines and a choice
          among them; the first one's rank is `--data-parallel-start-rank`
external  a server for each engine (`--data-parallel-rank`); of models with experts alone, because others' engines have
          nothing to say to each other, and are servers like any

A request names its engine with the header X-data-parallel-rank: counted from the server's own first one.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

# vLLM's defaults (config/parallel.py).
RPC_HOST, RPC_PORT = "127.0.0.1", 29550
HYBRID = "start each host's engines with --data-parallel-hybrid-lb, --data-parallel-size-local and a start rank"


@dataclass(frozen=True)
class DataParallel:
    """size: engines of all servers together; local: of this one; first: the rank of its first one.

    rpc: host and port at which the server of rank 0 waits for those of other ranks; None where there are none.
    """

    size: int = 1
    local: int = 1
    first: int = 0
    rpc: tuple[str, int] | None = None

    @property
    def ranks(self) -> range:
        """Of this server's engines; none where data parallelism is off, and vLLM counts no ranks."""
        return range(self.first, self.first + self.local) if self.size > 1 else range(0)


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser() -> argparse.ArgumentParser:
    """Those of vLLM's arguments that matter here, by its names."""
    parser = _Arguments(add_help=False, allow_abbrev=False)
    parser.add_argument("--data-parallel-size", "-dp", type=int, default=1)
    parser.add_argument("--data-parallel-size-local", "-dpl", type=int)
    parser.add_argument("--data-parallel-start-rank", "-dpr", type=int)
    parser.add_argument("--data-parallel-rank", "-dpn", type=int)
    parser.add_argument("--data-parallel-hybrid-lb", "-dph", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--data-parallel-external-lb", "-dpe", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--data-parallel-multi-port-external-lb", "-dpm", action="store_true")
    parser.add_argument("--data-parallel-backend", "-dpb", default="mp")
    parser.add_argument("--enable-elastic-ep", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--data-parallel-address", "-dpa", default=RPC_HOST)
    parser.add_argument("--data-parallel-rpc-port", "-dpp", type=int, default=RPC_PORT)
    return parser


def data_parallel_of(words: Sequence[str]) -> DataParallel:
    """Args: words: vLLM's arguments, of which the others are passed over.

    Raises: ValueError: for a way that the stack cannot serve, with what would be right.
    """
    given, others = _parser().parse_known_args([_named_as_usual(word) for word in words])
    size = given.data_parallel_size
    for word in others:
        if word.startswith(("--data-parallel", "-dp")):
            raise ValueError(f"{word}: expected one of vLLM's --data-parallel-* that this stack knows")
    if size < 1:
        raise ValueError(f"--data-parallel-size {size}: expected 1 or more")
    if given.headless:
        raise ValueError(f"--headless: its engines would be in no record; {HYBRID}")
    if given.enable_elastic_ep:
        raise ValueError("--enable-elastic-ep: engines that come and go at run time are in no record; leave it out")
    if size == 1:
        return DataParallel()
    if given.data_parallel_backend != "mp":
        raise ValueError(f"--data-parallel-backend {given.data_parallel_backend}: expected mp, engines of this host")
    if given.data_parallel_multi_port_external_lb:
        raise ValueError(
            "--data-parallel-multi-port-external-lb: one launcher keeps one server; "
            "start one for each rank with --data-parallel-rank"
        )
    if given.data_parallel_rank is not None or given.data_parallel_external_lb:
        return _external(given)
    local = size if given.data_parallel_size_local is None else given.data_parallel_size_local
    first = given.data_parallel_start_rank or 0
    if not (0 < local <= size and 0 <= first <= size - local):
        raise ValueError(
            f"--data-parallel-size-local {local} from rank {first}: expected 1 or more of --data-parallel-size {size}"
        )
    # A start rank makes vLLM take the hybrid way by itself.
    if local < size and not (given.data_parallel_hybrid_lb or given.data_parallel_start_rank is not None):
        raise ValueError(f"--data-parallel-size-local {local} of {size}: other hosts' engines; {HYBRID}")
    return DataParallel(size, local, first, _rpc(given) if local < size else None)


def _external(given: argparse.Namespace) -> DataParallel:
    size, rank, local = given.data_parallel_size, given.data_parallel_rank, given.data_parallel_size_local
    if rank is None:
        raise ValueError("--data-parallel-external-lb: expected --data-parallel-rank beside it")
    if not 0 <= rank < size or local not in (None, 1):
        raise ValueError(f"--data-parallel-rank {rank}: expected 0 to {size - 1}, with no more than 1 engine here")
    return DataParallel(size, 1, rank, _rpc(given))


def _rpc(given: argparse.Namespace) -> tuple[str, int]:
    return given.data_parallel_address, given.data_parallel_rpc_port


def _named_as_usual(word: str) -> str:
    """vLLM takes underscores in names of options too."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else word

"""One of the masters of a KV store that stand by for each other: python -m stack.store.master --host HOST ...

Starts Mooncake's and ends with it. When their log in etcd has become too long each stops its own, one of them deletes
the log, and they start anew with an empty store.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

import grpc

from stack import etcd
from stack.etcd.rpc import Etcd3Exception
from stack.host.parent_death import end_with_parent
from stack.store.cluster import CLUSTER
from stack.store.masters_log import LARGEST, MastersLog

log = logging.getLogger(__name__)

BETWEEN_LOOKS_S = 5.0
BETWEEN_TRIES_S = 1.0
STOP_LIMIT_S = 3.0
ETCD_AWAY = (Etcd3Exception, grpc.RpcError)


class Master:
    """`over` is set when this program is to end."""

    def __init__(
        self,
        command: Sequence[str],
        masters_log: MastersLog,
        over: threading.Event,
        between_looks_s: float = BETWEEN_LOOKS_S,
    ) -> None:
        self._command = command
        self._log = masters_log
        self._over = over
        self._between_looks_s = between_looks_s

    def run(self) -> int:
        """Returns: the exit status of Mooncake's master that ended by itself, 0 where this program was told to."""
        while self._wait_for_a_short_log():
            # It ends with this program, which may be killed: the main thread, which stays.
            process = subprocess.Popen(self._command, preexec_fn=partial(end_with_parent, os.getpid()))
            try:
                while process.poll() is None and not self._over.wait(self._between_looks_s):
                    if self._log_is_too_long():
                        log.warning("the masters' log in etcd has become too long: the KV store begins anew, empty")
                        break
                else:
                    return 0 if self._over.is_set() else abs(process.returncode)
            finally:
                _end(process)
        return 0

    def _wait_for_a_short_log(self) -> bool:
        """Until it is short, by whoever deletes it. Returns: False: this program is to end."""
        while not self._over.is_set():
            try:
                if self._log.forget():
                    return True
            except ETCD_AWAY as error:
                log.warning("etcd does not answer, and without it no master starts: %s", type(error).__name__)
            self._over.wait(BETWEEN_TRIES_S)
        return False

    def _log_is_too_long(self) -> bool:
        try:
            return self._log.is_too_long()
        except ETCD_AWAY:
            return False  # and Mooncake's own writes wait too


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def mooncake(host: str, rpc: int, http_host: str, http: int, endpoint: str, more: Sequence[str]) -> tuple[str, ...]:
    """The command. `host` is where the others reach this master, and where it listens; `more` are Mooncake's words."""
    return (
        str(Path(sys.executable).parent / "mooncake_master"),
        f"--rpc_address={host}",
        f"--rpc_port={rpc}",
        f"--metrics_host={http_host}",
        f"--metrics_port={http}",
        "--enable_ha",
        f"--etcd_endpoints={etcd.authority(endpoint)}",
        "--enable_oplog",
        f"--cluster_id={CLUSTER}",
        *more,
    )


def _ports(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stack.store.master", description=__doc__)
    parser.add_argument("--host", required=True, help="the address at which the other parts of the store reach it")
    parser.add_argument("--http-host", help="where it tells its health; default: the same")
    parser.add_argument("--etcd", required=True)
    counting = "of each replica in turn, which INSTANCE_INDEX counts"
    parser.add_argument("--rpc-ports", type=_ports, required=True, help=counting)
    parser.add_argument("--http-ports", type=_ports, required=True, help=counting)
    parser.add_argument("--largest-log", type=int, default=LARGEST, help="entries; default: %(default)s")
    parser.add_argument("--enable_offload", action="store_true", help="Mooncake's: owners have a disk")
    return parser.parse_args()


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    arguments = _arguments()
    index = int(os.environ.get("INSTANCE_INDEX") or 0)
    over = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        over.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    command = mooncake(
        arguments.host,
        arguments.rpc_ports[index],
        arguments.http_host or arguments.host,
        arguments.http_ports[index],
        arguments.etcd,
        ["--enable_offload"] if arguments.enable_offload else [],
    )
    return Master(command, MastersLog(arguments.etcd, arguments.largest_log), over).run()


if __name__ == "__main__":
    sys.exit(main())

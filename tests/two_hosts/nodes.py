"""What one of two hosts runs, as a user starts it: `make up` with the `.env` that README's table shows."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stack.configuration.settings import REPOSITORY
from tests.real_stack import FOREIGN_VARIABLES, START_LIMIT_S
from tests.two_hosts.hosts import Host

PREFILL, DECODE = "192.168.0.137", "192.168.0.139"
PROXY = "http://127.0.0.1:8000"
ETCD = f"{DECODE}:2379"
MOONCAKE = {
    "prefill_url": f"{PREFILL}:13003",
    "decode_url": f"{DECODE}:13503",
    "metadata_server": ETCD,
    "protocol": "tcp",
    "device_name": "",
}


@dataclass(frozen=True)
class Node:
    """What `make` runs on one host."""

    host: Host
    folder: Path

    def make(self, target: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.host.enter, "make", "--no-print-directory", target],
            cwd=REPOSITORY,
            env={**os.environ, **FOREIGN_VARIABLES, "STACK_ENV_FILE": str(self.folder / ".env")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_LIMIT_S,
            check=False,
        )

    def up(self) -> None:
        result = self.make("up")
        logs = "".join(file.read_text(errors="replace")[-3000:] for file in self.folder.glob("logs/*.log"))
        assert result.returncode == 0, f"make up on {self.host.address}:\n{result.stdout}\n{result.stderr}\n{logs}"


@contextmanager
def node(host: Host, folder: Path, services: str, **more: str) -> Iterator[Node]:
    """Its state and `.env` in `folder`; ended afterwards. more: variables."""
    folder.mkdir()
    (folder / "mooncake.json").write_text(json.dumps(MOONCAKE))
    variables = {
        # README's table.
        "STACK_SERVICES": services,
        "VLLM_HOST_IP": host.address,
        "ETCD_ENDPOINT": ETCD,
        "STACK_KEY": "0123456789abcdef0123456789abcdef",
        "STACK_MODE": "processes",
        "MOONCAKE_CONFIG_PATH": str(folder / "mooncake.json"),
        # This machine's environments and model, in which greedy text does not depend on the batch; short bounds.
        "STACK_DIR": str(folder),
        "STACK_VENV_DIR": str(REPOSITORY / ".stack/venv"),
        "MODEL_DIR": str(REPOSITORY / ".stack/models"),
        "DTYPE": "float32",
        "KV_CACHE_BYTES": str(256 << 20),
        "MAX_MODEL_LEN": "2048",
        "TRANSFER_TIMEOUT_S": "20",
        "TRANSFER_CANCEL_TIMEOUT_S": "10",
        "TRANSFER_CHECKSUM": "true",
        **more,
    }
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    made = Node(host, folder)
    try:
        yield made
    finally:
        down = made.make("down")
        assert down.returncode == 0, f"make down on {host.address}:\n{down.stdout}\n{down.stderr}"

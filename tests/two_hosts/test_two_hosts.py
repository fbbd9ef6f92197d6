"""The seed document's example: prefill on 192.168.0.137; decode, etcd and the proxy on 192.168.0.139; KV over TCP.

Each host is started with `make up` and the `.env` that README's table shows; its instances read one `mooncake.json`.
"""

import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stack.configuration.settings import REPOSITORY
from tests.real_stack import FOREIGN_VARIABLES, MODEL, START_LIMIT_S, answers, metrics, wait_until
from tests.two_hosts.hosts import Host, two_hosts

PREFILL, DECODE = "192.168.0.137", "192.168.0.139"
PROXY = "http://127.0.0.1:8000"
ETCD = f"{DECODE}:2379"
RATE = "200mbit"  # a long prompt's cache of 45 MB takes two seconds, so that the wire can be cut in between
PROMPT_TOKENS = 1000
ENDS_S = 90  # what must end at all
MOONCAKE = {
    "prefill_url": f"{PREFILL}:13003",
    "decode_url": f"{DECODE}:13503",
    "metadata_server": ETCD,
    "protocol": "tcp",
    "device_name": "",
}


# What a client may be told of a cut wire: by status, the cause that the message names.
CAUSES = {
    502: "^The (prefill|decode) instance .+ (cannot be reached|answered|ended|broke)",
    503: "^No prefill instance is available",
    504: " (took longer than|has sent no token for) [0-9.]+ s",
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
def node(host: Host, folder: Path, services: str) -> Iterator[Node]:
    """Its state and `.env` in `folder`; ended afterwards."""
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
    }
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    made = Node(host, folder)
    try:
        yield made
    finally:
        down = made.make("down")
        assert down.returncode == 0, f"make down on {host.address}:\n{down.stdout}\n{down.stderr}"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    folder = tmp_path_factory.mktemp("two-hosts")
    with (
        two_hosts(PREFILL, DECODE, RATE) as (first, second),
        node(second, folder / "decode", "etcd,decode,proxy") as decode,
        node(first, folder / "prefill", "prefill") as prefill,
    ):
        starting = second.call(decode.up)
        wait_until(lambda: second.call(answers, f"http://{ETCD}/health").result(), START_LIMIT_S, "etcd")
        prefill.up()
        starting.result()
        wait_until(lambda: second.call(answers, f"{PROXY}/ready").result(), ENDS_S, "the proxy sees both roles")
        yield prefill, decode


def complete(number: int) -> tuple[int, str, dict[str, Any]]:
    """Status, path through the stack, and body of a greedy completion of the prompt with this number."""
    prompt = [1000 + number, *range(2000, 2000 + PROMPT_TOKENS)]
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0}
    request = urllib.request.Request(
        f"{PROXY}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=ENDS_S) as answer:
            return answer.status, answer.headers["X-PD-Path"], json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, "", json.load(error)


def transports() -> dict[str, list[str]]:
    """By role, as the proxy found them in etcd."""
    with urllib.request.urlopen(f"{PROXY}/instances", timeout=ENDS_S) as answer:
        return {instance["role"]: instance["transports"] for instance in json.load(answer)["instances"]}


def test_the_cache_crosses_the_wire_and_a_cut_wire_ends_every_request(nodes: tuple[Node, Node]) -> None:
    prefill, decode = nodes
    first, second = prefill.host, decode.host
    before = second.received_bytes()
    status, path, _ = second.call(complete, 0).result()
    assert (status, path) == (200, "disaggregated")
    received = second.call(metrics, f"http://{DECODE}:8200").result()["pd_kv_received_bytes_total"]
    assert received > 0
    assert second.received_bytes() - before > received
    assert second.call(transports).result() == {"prefill": ["tcp"], "decode": ["tcp"]}

    before = second.received_bytes()
    running = [second.call(complete, number) for number in (1, 2, 3)]
    wait_until(lambda: second.received_bytes() > before + (4 << 20), ENDS_S, "a transfer is under way")
    first.cut()
    wait_until(
        lambda: not second.call(answers, f"{PROXY}/ready").result(), ENDS_S, "the proxy misses the producer's lease"
    )
    first.mend()
    ended = [request.result() for request in running]

    wait_until(lambda: second.call(answers, f"{PROXY}/ready").result(), ENDS_S, "the producer is registered again")
    print(
        "cut in mid-transfer:", *(f"{status}, {body.get('error', 'answered')}" for status, _, body in ended), sep="\n"
    )
    right = [second.call(complete, number).result() for number in (1, 2, 3)]
    assert [status for status, _, _ in right] == [200, 200, 200]
    for (status, _, body), (_, _, expected) in zip(ended, right, strict=True):
        if status == 200:
            assert body["choices"][0]["text"] == expected["choices"][0]["text"]
        else:
            assert status in CAUSES
            assert body["error"].keys() == {"message", "type", "param", "code"}
            assert re.search(CAUSES[status], body["error"]["message"]), body
    status, path, _ = second.call(complete, 4).result()
    assert (status, path) == (200, "disaggregated")

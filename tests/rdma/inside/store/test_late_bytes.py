"""Bytes of a load over RDMA that arrive after it has failed: in others' blocks, but for what the connector does.

Mooncake's own programs and client. Every packet is lost from before the load until after its end, and soft-RoCE asks
for what did not come as long as there is a queue pair.
"""

import importlib.util
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rdma.inside.ranks import HOST, Obedient, until
from tests.rdma.inside.store import instance
from tests.rdma.inside.store.wire import DEVICES, losing_packets, wire

MASTER_PORT, MASTER_HTTP_PORT, OWNER_PORT = 24051, 24052, 24053
SEGMENT_BYTES = 16 << 20
PROGRAM = str(Path(instance.__file__))
LIMIT_S = 280.0  # of an instance, one of whose loads takes the 60 s that Mooncake waits
TRANSFER_FAILED = -800


@pytest.fixture
def wired() -> Iterator[None]:
    with wire():
        yield


@pytest.fixture
def master(wired: None, tmp_path: Path) -> Iterator[str]:
    """Its address, once it knows of an owner's memory."""
    package = importlib.util.find_spec("mooncake")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent
    address = f"{HOST}:{MASTER_PORT}"
    metrics = f"http://{HOST}:{MASTER_HTTP_PORT}/metrics"
    of_master = [f"--rpc_address={HOST}", f"--rpc_port={MASTER_PORT}", f"--metrics_port={MASTER_HTTP_PORT}"]
    of_owner = [f"--host={HOST}", f"--port={OWNER_PORT}", f"--master_server_address={address}", "--protocol=rdma"]
    of_owner += [
        f"--device_names={DEVICES[1]}",
        "--metadata_server=P2PHANDSHAKE",
        f"--global_segment_size={SEGMENT_BYTES}",
    ]
    log = (tmp_path / "store.log").open("wb")
    started: list[subprocess.Popen[bytes]] = []

    def has_memory() -> bool:
        assert all(process.poll() is None for process in started), (tmp_path / "store.log").read_text()[-3000:]
        try:
            with urllib.request.urlopen(metrics, timeout=5) as answer:
                return f"\nmaster_total_capacity_bytes {SEGMENT_BYTES}\n" in answer.read().decode()
        except OSError:
            return False

    try:
        for program, options in (("mooncake_master", of_master), ("mooncake_client", of_owner)):
            started.append(subprocess.Popen([folder / program, *options], stdout=log, stderr=log))
        until(has_memory)
        yield address
    finally:
        for process in started:
            process.kill()
            process.wait()
        log.close()


@pytest.fixture
def instances(master: str, tmp_path: Path) -> Iterator[dict[str, Obedient]]:
    """By when they give a load's blocks back; the last one is the connector's way."""
    ways: dict[str, dict[str, Any]] = {
        "at the load's bound": {"holds": False, "leaves": False},
        "when Mooncake's call has returned": {"holds": True, "leaves": False},
        "when ours has": {"holds": True, "leaves": True},
    }
    started = {}
    for number, (way, own) in enumerate(ways.items()):
        options = json.dumps({"host": HOST, "device": DEVICES[0], "master": master, **own})
        started[way] = Obedient([sys.executable, PROGRAM, options], tmp_path / f"{number}.log", {}, LIMIT_S)
    yield started
    for each in started.values():
        print(each.log.read_text()[-2500:])
        each.end()


@pytest.mark.timeout(LIMIT_S)
def test_late_bytes_of_a_failed_load_reach_blocks_of_others_where_they_are_given_back_too_early(
    instances: dict[str, Obedient],
) -> None:
    at_the_bound, after_mooncake, ours = instances.values()
    assert at_the_bound.ask("save") == [0] * len(instance.KEYS)
    for each in instances.values():  # so that each has a queue pair with the owner
        assert each.ask("load")["loaded"] == instance.BYTES

    with losing_packets():
        for each in instances.values():
            each.tell("load")
        for way, each in instances.items():
            facts = each.answer()
            print(f"{way}: {facts}")
            assert facts["loaded"] == 0
            if each is not at_the_bound:  # whose call is still running
                assert facts["results"] == [TRANSFER_FAILED] * len(instance.KEYS)
        assert [each.ask("late_bytes") for each in instances.values()] == [0, 0, 0]

    there_again = time.monotonic()
    until(lambda: at_the_bound.ask("late_bytes") == after_mooncake.ask("late_bytes") == instance.BYTES)
    print(f"{instance.BYTES} late bytes in others' blocks, all within {time.monotonic() - there_again:.1f} s")
    until(lambda: "local protection error" in ours.log.read_text())  # the card had bytes for it and no memory
    assert ours.ask("late_bytes") == 0
    assert ours.ask("load")["results"] == [-1] * len(instance.KEYS), "it has left the store"

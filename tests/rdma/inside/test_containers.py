"""`compose.rdma.yaml` for real: ordinary users without capabilities move bytes over the device passed through."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.etcd_process import EtcdProcess
from tests.rdma.inside import devices
from tests.rdma.inside.ranks import HOST, REPOSITORY

START_S = 240  # of an engine under emulation
CAP_IPC_LOCK = 1 << 14
WRITTEN_BYTES = 4 << 20
FOLDERS = ("usr", "proc", "dev", "sys", "tmp", "etc", "key", "models", "repository", "shared")


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[None]:
    """An engine without networks of its own, which the instances do not use."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/etc/docker"], check=True)  # it keeps a key there
    log = (tmp_path / "dockerd.log").open("wb")
    engine = subprocess.Popen(
        ["dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false"], stdout=log, stderr=log
    )
    try:
        deadline = time.monotonic() + START_S
        while subprocess.run(["docker", "version"], capture_output=True, check=False).returncode != 0:
            alive = engine.poll() is None and time.monotonic() < deadline
            assert alive, (tmp_path / "dockerd.log").read_text()[-2000:]
            time.sleep(0.5)
        yield
    finally:
        engine.terminate()
        engine.wait()
        log.close()
        subprocess.run(["umount", "/etc/docker"], check=True)


@pytest.fixture
def image(docker: None, tmp_path: Path) -> str:
    root = tmp_path / "root"
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    archive = tmp_path / "root.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    subprocess.run(["docker", "import", archive, "tiny:1"], check=True, timeout=START_S, stdout=subprocess.DEVNULL)
    return "tiny:1"


@pytest.mark.timeout(600)
def test_two_instances_move_bytes_over_the_device(etcd: EtcdProcess, image: str) -> None:
    Path("/tmp/shared").mkdir(mode=0o777)
    Path("/tmp/shared").chmod(0o777)
    sent = devices.counter("rxe0", "sent_pkts")
    result = subprocess.run(
        ["docker", "compose", "up", "--no-log-prefix", "--no-build", "prefill", "decode"],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "COMPOSE_FILE": "compose.yaml:compose.rdma.yaml:tests/rdma/inside/compose.tiny.yaml",
            "ETCD_ENDPOINT": etcd.endpoint,
            "VLLM_HOST_IP": HOST,
            "STACK_KEY": "0123456789abcdef0123456789abcdef",
            "MOONCAKE_DEVICE_NAME": "rxe0",
            "MC_GID_INDEX": "1",
            "MC_IB_TC": "104",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    facts: dict[str, dict[str, Any]] = {}
    for line in result.stdout.splitlines():
        if "{" in line:
            facts |= json.loads(line[line.index("{") :])  # compose moves the cursor at the beginning
    assert facts.keys() == {"prefill", "decode"}, said
    for instance in facts.values():
        assert instance["uid"] == 10001
        assert instance["capabilities"] == CAP_IPC_LOCK
        assert instance["memlock"] == -1
        assert instance["segments"].keys() == {"rdma"}
    assert Path("/tmp/shared/written").read_text() == "rdma", said
    assert Path("/tmp/shared/arrived").exists(), said
    assert devices.counter("rxe0", "sent_pkts") - sent >= WRITTEN_BYTES // devices.MTU

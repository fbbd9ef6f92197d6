"""An owner waits for a leader of the masters, in a real etcd, and then is the program that it was to start."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stack import etcd
from stack.configuration.settings import REPOSITORY
from stack.store import cluster, owner
from tests.etcd_process import EtcdProcess


@pytest.mark.timeout(60)
def test_it_waits_until_somebody_leads(etcd_server: EtcdProcess) -> None:
    command = [sys.executable, "-m", "stack.store.owner", cluster.address(etcd_server.endpoint), "/bin/echo", "it runs"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as owner:
        time.sleep(1)
        assert owner.poll() is None, "nobody leads"
        with etcd.connect(etcd_server.endpoint) as client:
            client.put(cluster.LEADER_KEY, "somebody")
        assert owner.communicate(timeout=30)[0] == "it runs\n"
    assert owner.returncode == 0


@pytest.mark.parametrize(("files", "waits"), [([], []), (["1.bucket"], [owner.FORGOTTEN_S])])
def test_one_with_files_waits_until_the_one_before_it_is_forgotten(
    files: list[str], waits: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    began: list[list[str]] = []
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setenv(owner.FOLDER, str(tmp_path))
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(os, "execv", lambda _, command: began.append(command))
    monkeypatch.setattr(sys, "argv", ["owner", "127.0.0.1:1", "/bin/mooncake_client", "--enable_offload"])

    owner.main()

    assert slept == waits
    assert began == [["/bin/mooncake_client", "--enable_offload"]]

"""An owner waits for a leader of the masters, in a real etcd, and then is the program that it was to start."""

import subprocess
import sys
import time

import pytest

from stack import etcd
from stack.configuration.settings import REPOSITORY
from stack.store import cluster
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

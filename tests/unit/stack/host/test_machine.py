"""What a run says of the machine it ran on."""

import pytest

from stack.host import machine
from stack.host.cgroup import Limits


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_output", lambda *command: "NVIDIA H200, 143771 MiB, 580.159.04")


@pytest.mark.usefixtures("one_gpu")
def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", raising=False)
    assert machine.hardware()["GPU"] == "1 × NVIDIA H200, 143771 MiB, 580.159.04"


@pytest.mark.usefixtures("one_gpu")
def test_a_share_of_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50")
    assert machine.hardware()["GPU"].endswith("; of its multiprocessors 50 % for each process (CUDA MPS)")


def test_a_limit_is_what_a_run_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.host.cgroup.limits", lambda: Limits(memory=1.5 * (1 << 30), cpus=0.5))
    found = machine.hardware()

    assert found["CPU"].endswith(", of which a control group (cgroup) leaves this process 0.5")
    assert found["memory"].endswith(" GiB, of which a control group (cgroup) leaves this process 1.5 GiB")


def test_a_limit_above_what_there_is_limits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.host.cgroup.limits", Limits)
    unlimited = machine.hardware()
    monkeypatch.setattr("stack.host.cgroup.limits", lambda: Limits(memory=float(1 << 60), cpus=4096))

    assert machine.hardware()["CPU"] == unlimited["CPU"]
    assert machine.hardware()["memory"] == unlimited["memory"]

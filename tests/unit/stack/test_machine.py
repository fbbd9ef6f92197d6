"""What a run says of the machine it ran on."""

import pytest

from stack import machine


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

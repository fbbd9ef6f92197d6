"""The GPUs of this machine, asked of the driver."""

import subprocess


def indexes() -> list[str]:
    return _asked("index")


def memory_in_use() -> dict[str, int]:
    """GPU -> MiB."""
    return dict(zip(indexes(), map(int, _asked("memory.used")), strict=True))


def _asked(what: str) -> list[str]:
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.split()

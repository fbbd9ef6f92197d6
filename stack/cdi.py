"""Describes this machine's NVIDIA GPUs for container engines that know CDI, for hosts without NVIDIA's toolkit.

    python3 cdi.py > /etc/cdi/nvidia.json

A container that asks for `nvidia.com/gpu=0` then gets that GPU's device file, the driver's control devices and the
driver's libraries; `nvidia.com/gpu=all` every GPU. Needs nothing but Python. The description names the driver's files,
whose names hold its version, so it is made anew after an update of the driver.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

DEVICES = Path("/dev")
# Where the driver's libraries lie: the loader's own folders, and where machines get them as a mount.
FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
)
PROGRAMS = ("/usr/local/nvidia/bin/nvidia-smi", "/usr/bin/nvidia-smi")  # where both are, the second starts the first
# What CUDA, NVML and their just-in-time compilers need. The driver's libraries for graphics stay outside.
LIBRARIES = (
    "libcuda.so.1",
    "libcudadebugger.so.1",
    "libnvidia-gpucomp.so",
    "libnvidia-ml.so.1",
    "libnvidia-nvvm.so.4",
    "libnvidia-nvvm70.so.4",
    "libnvidia-ptxjitcompiler.so.1",
)
CONTROL = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
# A folder that the loader of Debian and Ubuntu looks into without its cache, which nobody writes anew in a container.
INSIDE = "/usr/lib/x86_64-linux-gnu"


def description() -> dict[str, Any]:
    """The CDI document. Raises: FileNotFoundError: no GPU, or a driver without libcuda."""
    gpus = sorted(int(found[1]) for path in DEVICES.iterdir() if (found := re.fullmatch(r"nvidia(\d+)", path.name)))
    if not gpus:
        raise FileNotFoundError("no /dev/nvidia0: found no GPU; needed a loaded NVIDIA driver and its device files")
    nodes = {str(gpu): [{"path": str(DEVICES / f"nvidia{gpu}")}] for gpu in gpus}
    everything = [node for each in nodes.values() for node in each]
    return {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {"name": name, "containerEdits": {"deviceNodes": paths}}
            for name, paths in {**nodes, "all": everything}.items()
        ],
        "containerEdits": {
            "deviceNodes": [{"path": str(DEVICES / name)} for name in CONTROL if (DEVICES / name).exists()],
            "mounts": driver_files(),
            # Triton asks the loader's cache where libcuda is.
            "env": [f"TRITON_LIBCUDA_PATH={INSIDE}"],
        },
    }


def driver_files() -> list[dict[str, Any]]:
    """Mounts of single files, each under the name that programs load it by."""
    mounts: dict[str, str] = {}
    for wanted in LIBRARIES:
        for folder in FOLDERS:
            for path in sorted(Path(folder).glob(f"{wanted}*")):
                name = wanted if wanted.endswith(tuple("0123456789")) else path.name
                if (real := path.resolve()).is_file():
                    mounts.setdefault(f"{INSIDE}/{name}", str(real))
    if f"{INSIDE}/libcuda.so.1" not in mounts:
        raise FileNotFoundError(f"found no libcuda.so.1 in {', '.join(FOLDERS)}; needed the driver's libraries")
    for program in PROGRAMS:
        if Path(program).is_file():
            mounts.setdefault("/usr/bin/nvidia-smi", os.path.realpath(program))
    options = ["ro", "nosuid", "nodev", "bind"]
    return [{"hostPath": host, "containerPath": inside, "options": options} for inside, host in mounts.items()]


if __name__ == "__main__":
    try:
        print(json.dumps(description(), indent=2))
    except FileNotFoundError as error:
        print(f"cdi: {error}", file=sys.stderr)
        raise SystemExit(1) from error

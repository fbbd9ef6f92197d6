"""What the launcher, the API server and these tests import must not need vLLM, torch or Mooncake."""

import subprocess
import sys
from pathlib import Path

import pytest

import connector

# These are vLLM's side: only an engine process imports them.
WITH_VLLM = {"kv_connector", "rank", "vllm_cache", "metrics", "fences"}
FOLDER = Path(connector.__file__).parent
FOUND = {".".join(file.relative_to(FOLDER).with_suffix("").parts) for file in FOLDER.rglob("*.py")}
MODULES = sorted(name for name in FOUND - WITH_VLLM if not name.endswith("__init__"))
PROGRAM = """
import sys, importlib
for name in sys.argv[1].split():
    sys.modules[name] = None  # importing it raises ImportError
for name in sys.argv[2:]:
    importlib.import_module("connector." + name)
"""


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        (MODULES, "vllm torch mooncake"),
        (["producer"], "vllm torch mooncake"),
        (["launcher"], "vllm torch mooncake"),
        (["registration"], "vllm torch mooncake"),
        (["settings"], "vllm torch mooncake zmq grpc etcd3"),  # the doctor reads them, in an environment of its own
    ],
    ids=["all", "producer", "launcher", "registration", "settings"],
)
def test_it_imports_without(names: list[str], absent: str) -> None:
    root = Path(connector.__file__).parent.parent
    command = [sys.executable, "-c", PROGRAM, absent, *names]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr

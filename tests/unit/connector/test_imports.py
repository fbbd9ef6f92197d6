"""What the launcher, the API server and these tests import must not need vLLM, torch or Mooncake."""

import subprocess
import sys
from pathlib import Path

import pytest

import connector

# These are vLLM's side: only an engine process imports them.
WITH_VLLM = {"kv_connector", "metrics", "fences"}
MODULES = sorted({file.stem for file in Path(connector.__file__).parent.glob("*.py")} - WITH_VLLM - {"__init__"})
PROGRAM = """
import sys, importlib
for name in ("vllm", "torch", "mooncake"):
    sys.modules[name] = None  # importing it raises ImportError
for name in sys.argv[1:]:
    importlib.import_module("connector." + name)
"""


@pytest.mark.parametrize("names", [MODULES, ["producer"], ["launcher"]], ids=["all", "producer", "launcher"])
def test_it_imports_without_vllm_torch_and_mooncake(names: list[str]) -> None:
    root = Path(connector.__file__).parent.parent
    found = subprocess.run([sys.executable, "-c", PROGRAM, *names], cwd=root, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr

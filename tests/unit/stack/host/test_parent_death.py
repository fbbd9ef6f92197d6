"""A process that ends with its parent, whenever that ends."""

import subprocess
import sys
from functools import partial

import psutil

from stack.configuration.settings import REPOSITORY
from stack.host.parent_death import end_with_parent

LIMIT_S = 30
CHILD = "import time; print('child', flush=True); time.sleep(600)"
PARENT = f"""
import os, subprocess, sys
from functools import partial
from stack.host.parent_death import end_with_parent
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], preexec_fn=partial(end_with_parent, os.getpid()))
print(child.pid, flush=True)
child.wait()
"""


def test_it_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said = {parent.stdout.readline().strip() for _ in range(2)}
        (pid,) = said - {"child"}
        child = psutil.Process(int(pid))
        parent.kill()
        gone, _ = psutil.wait_procs([child], timeout=LIMIT_S)
    assert gone == [child]


def test_it_does_not_begin_when_its_parent_has_ended_already() -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], preexec_fn=partial(end_with_parent, 0))
    assert child.wait(LIMIT_S) == 1

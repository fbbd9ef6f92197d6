"""Two processes that want the same lock: the second says that it waits, and goes on when the first has left."""

import subprocess
import sys
from pathlib import Path

from stack.configuration.settings import REPOSITORY
from stack.host.one_at_a_time import one_at_a_time

SECOND = """
import sys
from pathlib import Path
from stack.host.one_at_a_time import one_at_a_time
with one_at_a_time(Path(sys.argv[1])):
    print("inside")
"""


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    file = tmp_path / "up.lock"
    command = [sys.executable, "-u", "-c", SECOND, str(file)]
    with one_at_a_time(file):
        second = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        assert second.stdout.readline() == "another process is at work here (up.lock); waiting for it\n"
        assert second.poll() is None
    assert second.communicate(timeout=30)[0] == "inside\n"
    assert second.returncode == 0


def test_a_free_lock_is_taken_without_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SECOND, str(tmp_path / "up.lock")]
    output = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=30).stdout
    assert output == "inside\n"

"""How the lock files are compiled."""

import sys

from stack.configuration.settings import REPOSITORY
from stack.lock import compile_command, locks


def test_every_lock_has_its_input_and_the_tests_come_last() -> None:
    found = [str(lock.relative_to(REPOSITORY)) for lock in locks()]

    assert found[0] == "stack/requirements.lock"
    assert found[-4:] == [f"tests/{folder}requirements.lock" for folder in ("", "k8s/", "k8s/chart/", "rdma/")]
    assert {"images/proxy/requirements.lock", "images/vllm/requirements.cpu.lock"} <= set(found)
    assert all(lock.exists() for lock in locks())


def test_no_lock_names_a_host_or_a_folder_of_a_machine() -> None:
    for lock in locks():
        text = lock.read_text()
        assert "://" not in text, lock
        assert "--find-links" not in text, lock
        assert "--index-url" not in text, lock


def test_excludes_beside_an_input_are_used() -> None:
    command = compile_command(REPOSITORY / "images/vllm/requirements.cpu.lock")

    assert command[:4] == [sys.executable, "-m", "uv", "pip"]
    assert command[command.index("--excludes") + 1] == "requirements.cpu.excludes"
    assert command[-3:] == ["requirements.cpu.in", "-o", "requirements.cpu.lock"]
    assert "--generate-hashes" in command


def test_no_excludes_where_there_is_no_such_file() -> None:
    assert "--excludes" not in compile_command(REPOSITORY / "stack/requirements.lock")

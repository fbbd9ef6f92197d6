"""etcd's client chooses its protobuf by itself, in a process of its own: the choice is made once and for all."""

import os
import subprocess
import sys

import pytest

from stack.configuration.settings import REPOSITORY
from stack.etcd.protobuf_choice import PROTOBUF_CHOICE

PROGRAM = """
import os
import {first}
from stack.etcd.rpc import etcdrpc
from google.protobuf.internal import api_implementation

print(etcdrpc.RangeRequest(key=b"a").SerializeToString(), api_implementation.Type(), os.environ.get({variable!r}))
"""

KEY = b"\n\x01a"  # field 1, one byte


def run(first: str, choice: str | None) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != PROTOBUF_CHOICE}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM.format(first=first, variable=PROTOBUF_CHOICE)],
        cwd=REPOSITORY,
        env=environment | ({PROTOBUF_CHOICE: choice} if choice else {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("choice", [None, "python", "upb", "cpp", "nonsense"])
def test_it_works_whatever_the_shell_has_which_keeps_it(choice: str | None) -> None:
    result = run("sys", choice)

    assert (result.stdout, result.stderr) == (f"{KEY!r} python {choice}\n", "")


def test_the_proxy_with_all_its_modules_chooses_in_time() -> None:
    result = run("proxy.app", "upb")

    assert result.stdout == f"{KEY!r} python upb\n", result.stderr


def test_a_choice_that_was_made_before_is_told_in_one_line() -> None:
    result = run("google.protobuf.internal.api_implementation", "upb")

    assert result.stderr.splitlines()[-1] == (
        "ImportError: protobuf='upb': expected 'python', which etcd3's generated code needs; "
        "import stack.etcd.rpc before anything that imports google.protobuf"
    )

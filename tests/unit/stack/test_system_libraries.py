"""System libraries are recognised by loading them, and a person is told how to get what is missing."""

import pytest

from stack import system_libraries
from stack.system_libraries import MissingLibraryError, SystemPackage, install, missing

THERE = (
    SystemPackage("libc6", "library", "libc.so.6", "everything"),
    SystemPackage("coreutils", "program", "cat", "everything"),
)
ABSENT = (
    SystemPackage("libnowhere1", "library", "libnowhere.so.1", "a test"),
    SystemPackage("nowhere", "program", "no-such-program", "a test"),
)


def test_what_is_missing() -> None:
    assert missing([*THERE, *ABSENT]) == ABSENT


def test_nothing_is_installed_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_libraries, "apt_may_install", lambda: pytest.fail("apt was thought of"))

    install(THERE)


def test_one_line_says_what_to_install_where_apt_may_not_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_libraries, "apt_may_install", lambda: False)

    with pytest.raises(MissingLibraryError) as told:
        install(ABSENT)

    assert str(told.value) == (
        "missing from the system: libnowhere1, nowhere; "
        "install with: sudo apt-get install --no-install-recommends libnowhere1 nowhere"
    )

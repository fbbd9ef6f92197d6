"""What pip knows about package sources reaches uv."""

from pathlib import Path

import pytest

from stack.installation.package_sources import cpu_torch_arguments, pip_configuration, uv_environment

LISTING = """\
:env:.find-links='/wheels /more'
global.cert='/etc/ca.pem'
global.find-links='/old'
global.index-url='https://packages.example/simple'
install.cert='/etc/other.pem'
list.format='columns'
"""


def test_pips_own_precedence() -> None:
    assert pip_configuration(LISTING) == {
        "find-links": "/wheels /more",
        "cert": "/etc/other.pem",
        "index-url": "https://packages.example/simple",
    }


def test_nothing_configured_leaves_the_environment_alone() -> None:
    assert uv_environment({"HOME": "/home/a"}, {}) == {"HOME": "/home/a"}


def test_uv_gets_index_wheel_folders_and_certificates() -> None:
    assert uv_environment({}, pip_configuration(LISTING)) == {
        "UV_DEFAULT_INDEX": "https://packages.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "SSL_CERT_FILE": "/etc/other.pem",
    }


def test_a_variable_of_uv_wins() -> None:
    given = {"UV_DEFAULT_INDEX": "https://other.example/simple"}

    assert uv_environment(given, {"index-url": "https://packages.example/simple"}) == given


@pytest.mark.parametrize(
    ("wheel", "arguments"),
    [
        ("torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", []),
        ("numpy-2.0-py3-none-any.whl", ["--torch-backend", "cpu"]),
    ],
)
def test_pytorchs_index_is_asked_only_without_a_local_wheel(tmp_path: Path, wheel: str, arguments: list[str]) -> None:
    (tmp_path / wheel).touch()

    assert cpu_torch_arguments({"UV_FIND_LINKS": f"/nowhere,{tmp_path}"}) == arguments


def test_pytorchs_index_is_asked_where_there_is_no_folder() -> None:
    assert cpu_torch_arguments({}) == ["--torch-backend", "cpu"]

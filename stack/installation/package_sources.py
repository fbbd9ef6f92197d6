"""Hands pip's package sources on to uv: index, local wheel folder, private CA.

A machine that reaches packages in its own way has usually told pip (PIP_* variables or pip's configuration files), and
uv reads neither. A UV_* variable that is already set wins. No source is written into any file.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def pip_configuration(listing: str) -> dict[str, str]:
    """Option -> value from what `pip config list` prints, e.g. `global.find-links='/wheels'`."""
    # Weakest first, which is pip's own order: configuration for all commands, for `install`, variables.
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.partition(".")
        if section in found:
            found[section][option] = ast.literal_eval(value)
    return {**found["global"], **found["install"], **found[":env:"]}


def uv_environment(environment: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """`environment` with UV_DEFAULT_INDEX, UV_FIND_LINKS and SSL_CERT_FILE filled in where pip knows them."""
    known = {
        "UV_DEFAULT_INDEX": pip.get("index-url", ""),
        # pip separates folders by white space, uv by commas.
        "UV_FIND_LINKS": ",".join(pip.get("find-links", "").split()),
        "SSL_CERT_FILE": pip.get("cert", ""),
    }
    return {**{name: value for name, value in known.items() if value}, **environment}


def cpu_torch_arguments(environment: Mapping[str, str]) -> list[str]:
    """uv arguments that find PyTorch's CPU build, which is not on PyPI.

    A local wheel folder that has it is enough; otherwise uv knows PyTorch's own index. Never both: asking that index on
    a machine that cannot reach it costs minutes of retries.
    """
    places = [place for place in environment.get("UV_FIND_LINKS", "").split(",") if place]
    lent = any("://" in place or list(Path(place).glob("torch-*cpu*.whl")) for place in places)
    return [] if lent else ["--torch-backend", "cpu"]


def for_uv() -> dict[str, str]:
    """The environment to run uv in on this machine."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    return uv_environment(os.environ, pip_configuration(listing))

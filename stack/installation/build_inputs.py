"""What the image builds need on this machine beyond the repository, e.g. a base image where no registry is reached.

`images/build-inputs.sh` finds or makes it; compose takes it from the environment.
"""

import subprocess

from stack.configuration.settings import REPOSITORY

SCRIPT = REPOSITORY / "images" / "build-inputs.sh"


def build_inputs() -> dict[str, str]:
    """Variable -> value, for the environment of `docker compose build`; what is set already is not among them.

    Progress goes to stderr. Raises: subprocess.CalledProcessError: a base image could be neither pulled nor made.
    """
    lines = subprocess.run([SCRIPT], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)

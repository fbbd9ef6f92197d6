"""Looks whether the stack can run here, and says in one line for each trouble how to fix it.

Usage: python -m stack.doctor     (`make doctor`; `make up` runs it first)
Exit status 1 when something keeps the stack from starting; warnings do not.
"""

import os
import sys

from stack.configuration import env_file
from stack.configuration.environment import ConfigError, load
from stack.configuration.settings import REPOSITORY, StackSettings
from stack.diagnosis.facts import bad_settings, gather
from stack.diagnosis.finding import Finding
from stack.diagnosis.findings import bad_lines, bad_values, judge
from stack.running import compose


def examine(settings: StackSettings, *, with_docker: bool) -> int:
    """Print the findings. Returns: 1 when one of them is an error, else 0."""
    return report(judge(gather(settings, with_docker=with_docker)))


def report(findings: list[Finding]) -> int:
    for finding in findings:
        print(finding, file=sys.stderr if finding.severity == "error" else sys.stdout, flush=True)
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"doctor: {errors} errors, {len(findings) - errors} warnings", flush=True)
    return 1 if errors else 0


def main() -> int:
    os.chdir(REPOSITORY)
    try:
        env_file.apply()
    except ConfigError:
        return report(list(bad_lines(env_file.applied(), str(env_file.path()))))
    try:
        settings = load(StackSettings)
    except ConfigError:
        # Without settings there is no telling which ports and folders to look at.
        return report(list(bad_values(bad_settings(), str(env_file.path()))))
    with_docker = settings.stack_mode == "docker" or (settings.stack_mode == "auto" and compose.is_available())
    return examine(settings, with_docker=with_docker)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m proxy`: reads the environment, serves until SIGTERM."""

import sys

from proxy.server import serve
from proxy.settings import ProxySettings
from proxy.telemetry import logs
from stack.configuration.environment import ConfigError, load_or_exit


def main() -> None:
    settings = load_or_exit(ProxySettings)
    logs.configure(settings.proxy_log_level)
    try:
        serve(settings)
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()

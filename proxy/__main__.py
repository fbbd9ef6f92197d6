"""`python -m proxy`: reads the environment, serves until SIGTERM."""

import asyncio

from proxy import logs
from proxy.server import serve
from proxy.settings import ProxySettings
from stack.environment import load_or_exit


def main() -> None:
    settings = load_or_exit(ProxySettings)
    logs.configure(settings.proxy_log_level)
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()

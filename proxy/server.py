"""Serves the app with hypercorn until SIGTERM or SIGINT, then lets running streams finish.

Within PROXY_SHUTDOWN_GRACE_S streams end by themselves; at its end each is told that the proxy shuts down.
"""

import asyncio
import os
import signal
import socket

import structlog
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config
from quart import Quart

from proxy.app import create_app
from proxy.gateway import Gateway
from proxy.logs import STDLIB_LOGGER
from proxy.settings import ProxySettings
from stack.environment import ConfigError

KEEP_ALIVE_S = 75.0  # longer than common clients keep theirs, so that it is not the server that closes under a request
LAST_WORDS_S = 2.0  # to write the error event of a stream that was cut, and to close
BACKLOG = 1024

log = structlog.get_logger()


async def serve(settings: ProxySettings) -> None:
    """Raises: ConfigError: the address cannot be listened on."""
    app = create_app(settings)
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, asked.set)

    async def shutdown_trigger() -> None:
        await asked.wait()
        _drain(app, settings.proxy_shutdown_grace_s)

    config = hypercorn_config(settings, _listen(settings.host, settings.proxy_port))
    log.info("starting", listen=f"{settings.host}:{settings.proxy_port}", etcd=settings.etcd_endpoint)
    await hypercorn_serve(app, config, shutdown_trigger=shutdown_trigger)
    log.info("stopped")


def hypercorn_config(settings: ProxySettings, listener: socket.socket) -> Config:
    """hypercorn takes `listener` over."""
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = BACKLOG
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.graceful_timeout = settings.proxy_shutdown_grace_s + LAST_WORDS_S
    config.include_server_header = False
    config.errorlog = STDLIB_LOGGER
    return config


def _listen(host: str, port: int) -> socket.socket:
    """Raises: ConfigError: nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ConfigError([f"PROXY_PORT={port}: cannot listen on {host}:{port}: {reason}"]) from error


def _drain(app: Quart, grace_s: float) -> None:
    gateway: Gateway = app.extensions["gateway"]
    gateway.draining = True
    log.info("shutting down", running=len(gateway.being_served), grace_s=grace_s)
    loop = asyncio.get_running_loop()
    loop.call_later(grace_s, gateway.abort_all)
    loop.call_later(grace_s + 2 * LAST_WORDS_S, _leave)


def _leave() -> None:
    """hypercorn waits without limit for a client that does not read what was written to it."""
    log.warning("leaving with connections open")
    os._exit(1)

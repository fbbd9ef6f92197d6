"""Serves the app with hypercorn until SIGTERM or SIGINT, then lets running streams finish.

Within PROXY_SHUTDOWN_GRACE_S streams end by themselves; at its end each is told that the proxy shuts down.
"""

import asyncio
import os
import signal

import structlog
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config
from quart import Quart

from proxy.app import create_app
from proxy.gateway import Gateway
from proxy.logs import STDLIB_LOGGER
from proxy.settings import ProxySettings

KEEP_ALIVE_S = 75.0  # longer than common clients keep theirs, so that it is not the server that closes under a request
LAST_WORDS_S = 2.0  # to write the error event of a stream that was cut, and to close
BACKLOG = 1024

log = structlog.get_logger()


async def serve(settings: ProxySettings) -> None:
    app = create_app(settings)
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, asked.set)

    async def shutdown_trigger() -> None:
        await asked.wait()
        _drain(app, settings.proxy_shutdown_grace_s)

    log.info("starting", listen=f"{settings.host}:{settings.proxy_port}", etcd=settings.etcd_endpoint)
    await hypercorn_serve(app, hypercorn_config(settings), shutdown_trigger=shutdown_trigger)
    log.info("stopped")


def hypercorn_config(settings: ProxySettings) -> Config:
    config = Config()
    config.bind = [f"{settings.host}:{settings.proxy_port}"]
    config.backlog = BACKLOG
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.graceful_timeout = settings.proxy_shutdown_grace_s + LAST_WORDS_S
    config.include_server_header = False
    config.errorlog = STDLIB_LOGGER
    return config


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

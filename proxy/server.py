"""Serves the app with uvicorn until SIGTERM or SIGINT, then lets running streams finish.

Within PROXY_SHUTDOWN_GRACE_S streams end by themselves; at its end each is told that the proxy shuts down. With
PROXY_WORKERS over 1 as many processes accept on one port: each has its own view of etcd and of its own requests.
"""

import asyncio
import gc
import math
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn
from quart import Quart
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from proxy.app import create_app
from proxy.connection.limits import limited_protocol
from proxy.connection.socket_limits import SocketLimits, within_open_files
from proxy.exchange.exchange import LAST_WORDS_S
from proxy.exchange.gateway import Gateway
from proxy.settings import ProxySettings
from proxy.telemetry import logs
from stack.configuration.environment import ConfigError, load_or_exit
from stack.host.parent_death import end_with_parent
from stack.network import addresses

MAX_DIGITS = 640  # of an integer in a body; the time to read one grows with its square, and 640 is Python's least bound
BACKLOG = 1024
# New objects that start a garbage collection. Nearly all go without one, at the end of their request, so Python's 700
# only looks through those of the running requests again and again: 7 % of the CPU time of a busy proxy.
YOUNG_OBJECTS = 10_000

log = structlog.get_logger()


def serve(settings: ProxySettings) -> None:
    """Returns after SIGTERM or SIGINT, when the last request has ended.

    Raises: ConfigError: the address cannot be listened on.
    """
    if reason := addresses.obstacle(settings.host):
        name = "PROXY_LISTEN_HOST" if settings.proxy_listen_host else "BIND_ADDRESS"
        raise ConfigError([f"{name}={settings.host!r}: expected an address to listen on; {reason}"])
    listeners = _listen(settings.host, settings.proxy_port, settings.proxy_workers)
    config = uvicorn_config("proxy.server:application", settings, factory=True, workers=settings.proxy_workers)
    log.info(
        "starting",
        listen=addresses.join(settings.host, settings.proxy_port),
        etcd=settings.etcd_endpoint,
        workers=settings.proxy_workers,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn sends itself the signal once more when it has ended
    if settings.proxy_workers == 1:
        uvicorn.Server(config).run(listeners)
    else:
        with tempfile.TemporaryDirectory(prefix="pd-proxy-metrics-") as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read by prometheus_client when a worker imports it
            _Workers(config, listeners).run()
    log.info("stopped")


def application() -> Quart:
    """The app of this process, with its settings from the environment; told when the process has to end."""
    supervisor = multiprocessing.parent_process()
    if supervisor is not None and supervisor.pid is not None:
        # Or workers of a supervisor that was killed would go on, on a port that a new one cannot have.
        end_with_parent(supervisor.pid)
    settings = load_or_exit(ProxySettings)
    logs.configure(settings.proxy_log_level)
    sys.set_int_max_str_digits(MAX_DIGITS)
    app = create_app(settings)

    @app.before_serving
    async def start_without_old_objects() -> None:
        # What lives as long as the process is not looked through again in every full collection: a pause for all.
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS)

    @app.before_serving
    async def drain_on_termination() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            stop_accepting: Any = signal.getsignal(number)  # uvicorn's own handler

            def terminate(number: int, frame: FrameType | None, stop: Callable[..., None] = stop_accepting) -> None:
                loop.call_soon_threadsafe(_drain, app, settings.proxy_shutdown_grace_s)
                stop(number, frame)

            signal.signal(number, terminate)

    return app


def uvicorn_config(app: Any, settings: ProxySettings, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=limited_protocol(_socket_limits(settings), settings.cors),
        headers=settings.cors.always,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(settings.proxy_idle_timeout_s),
        timeout_graceful_shutdown=math.ceil(settings.proxy_shutdown_grace_s) + LAST_WORDS_S,
        **more,
    )


def _socket_limits(settings: ProxySettings) -> SocketLimits:
    limits = SocketLimits(
        settings.proxy_max_connections,
        settings.proxy_max_head_bytes,
        settings.proxy_head_timeout_s,
        settings.proxy_max_buffered_bytes,
    )
    return within_open_files(limits, settings.proxy_max_running_requests)


class _Workers(Multiprocess):
    """uvicorn's supervisor: starts the workers, replaces one that has died, ends them all."""

    def init_processes(self) -> None:
        """Each worker has a listener of its own; one that replaces another takes from all of them."""
        for listener in self.sockets:
            process = Process(self.config, [listener])
            process.start()
            self.processes.append(process)

    def terminate_all(self) -> None:
        for listener in self.sockets:  # or connections would wait in a queue from which no worker takes any more
            listener.close()
        super().terminate_all()


def _listen(host: str, port: int, workers: int) -> list[socket.socket]:
    """One socket for each worker, among which the kernel spreads the connections evenly: from one that all of them
    share, whichever is awake takes everything that waits.

    Raises: ConfigError: nothing can listen there.
    """
    listen = partial(
        socket.create_server,
        (host, port),
        family=addresses.family(host),
        backlog=BACKLOG,
        dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
    )
    try:
        only = listen()
        if workers == 1:
            return [only]
        only.close()  # nobody else listens there: with SO_REUSEPORT the next line would not notice
        return [listen(reuse_port=True) for _ in range(workers)]
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ConfigError([f"PROXY_PORT={port}: cannot listen on {addresses.join(host, port)}: {reason}"]) from error


def _drain(app: Quart, grace_s: float) -> None:
    gateway: Gateway = app.extensions["gateway"]
    if gateway.draining:
        return
    gateway.draining = True
    log.info("shutting down", running=len(gateway.being_served), grace_s=grace_s)
    asyncio.get_running_loop().call_later(grace_s, gateway.abort_all)

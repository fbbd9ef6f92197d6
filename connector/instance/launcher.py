"""Starts one vLLM instance, registers it in etcd while it is healthy, and drains it.

python -m connector.instance.launcher

On SIGTERM or SIGINT it leaves etcd first, lets running requests finish within SHUTDOWN_GRACE_S, then stops vLLM.
When vLLM ends by itself the launcher says so and exits with vLLM's code.
"""

import contextlib
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from functools import partial
from types import FrameType
from typing import Any

from connector import __version__
from connector.cache.fingerprint import fingerprint
from connector.instance import own_addresses, served_models, store, vllm_command
from connector.instance.identity.chat_template import clock_in_template
from connector.instance.registration import Registration, forget_old_segments
from connector.mooncake.transports import obstacle
from connector.telling.transfer_facts import PIPE_VARIABLE
from stack.configuration.environment import load_or_exit
from stack.host.parent_death import end_with_parent
from stack.instances.mooncake_config import keys_without_effect
from stack.instances.record import Instance
from stack.instances.settings import WITHOUT_EFFECT, LauncherSettings
from stack.network import addresses
from stack.network.direct_http import open_directly

log = logging.getLogger("launcher")

METRICS_TIMEOUT_S = 2.0
LOOK_S = 0.5  # between two looks whether requests are left
# On a CPU the engine's steps are in the server's own process, which answers nothing meanwhile: 2,048 tokens at 160 a
# second, with two servers on two cores, are 13 s. That is no reason to leave etcd.
SILENCE_S = 20.0
STOP_TIMEOUT_S = 15.0  # for vLLM to end after SIGTERM, before SIGKILL


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = load_or_exit(LauncherSettings)
    for name in WITHOUT_EFFECT:
        if os.environ.get(name):
            log.warning("%s has no effect: vLLM's instances of this stack need no process group between them", name)
    if reason := own_addresses.obstacle(settings):
        print(reason, file=sys.stderr)
        return 2
    if settings.mooncake_config_path:
        for key in keys_without_effect(settings.mooncake_config_path):
            log.warning("MOONCAKE_CONFIG_PATH=%s: %s has no effect", settings.mooncake_config_path, key)
    mooncake = settings.mooncake
    if settings.has_connector and (reason := obstacle(mooncake.protocol, mooncake.device_name, vllm_command.on_gpu())):
        print(reason, file=sys.stderr)
        return 2
    # New at every start: to its peers a restarted server is another one, whose memory lies elsewhere.
    # Mooncake would take a colon in a segment's name for the one before a port.
    name = f"{settings.role}-{settings.host.replace(':', '_')}-{settings.port}"
    instance_id = f"{name}-{uuid.uuid4().hex[:8]}"
    try:
        instance = _instance(settings, instance_id)
    except OSError as error:
        print(f"MODEL={settings.model!r}: {error}", file=sys.stderr)
        return 2
    if settings.has_connector and (clock := clock_in_template(settings.model_path, shlex.join(settings.extra_words))):
        log.warning(
            "the chat template prints the time (strftime_now(%r)): where the two sides' prompts differ by it, "
            "nothing is moved and both compute the prompt",
            clock,
        )

    over = threading.Event()  # a signal has come, or vLLM has ended
    signals: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        log.info("got %s", signal.Signals(number).name)
        signals.append(number)
        over.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)

    environment = vllm_command.environment(settings, os.environ)
    folder = tempfile.TemporaryDirectory(prefix="pd-")
    if settings.store_master:
        environment |= store.environment(settings, folder.name, os.environ)
    if settings.has_connector:
        forget_old_segments(mooncake.metadata_server, name)
        environment[PIPE_VARIABLE] = os.path.join(folder.name, "transfer-facts")
        os.mkfifo(environment[PIPE_VARIABLE], 0o600)
    log.info("starting vLLM as %s: %s on port %d", instance_id, settings.served_name, settings.port)
    vllm = subprocess.Popen(
        vllm_command.command(settings, instance_id),
        env=environment,
        # Or a launcher that is killed would leave a server behind that nobody registers or drains. It is not killed as
        # well, because then it would leave its engine core behind, with the control port.
        preexec_fn=partial(end_with_parent, os.getpid()),
        start_new_session=True,  # a Ctrl-C at the terminal must reach the launcher only, or nothing would be drained
    )
    threading.Thread(target=_tell_of_end, args=(vllm.pid, over), daemon=True).start()
    registration = Registration(settings.etcd, instance, settings.lease_ttl_s)
    try:
        served = _watch(vllm, settings, registration, over)
        registration.leave()
        if served:
            _drain(vllm, settings)
    finally:
        _stop(vllm)
        folder.cleanup()
    if signals:
        return 0
    log.error("vLLM ended by itself with code %d", vllm.returncode)
    return vllm.returncode if vllm.returncode >= 0 else 128 - vllm.returncode


def _tell_of_end(pid: int, over: threading.Event) -> None:
    """Sets `over` as soon as the process has ended: etcd has its record until then, and every request for it fails.

    It stays to be waited for by whoever started it.
    """
    with contextlib.suppress(ChildProcessError):  # that has been done already
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    over.set()


def _watch(
    vllm: "subprocess.Popen[bytes]", settings: LauncherSettings, registration: Registration, over: threading.Event
) -> bool:
    """Keep the registration while vLLM is healthy, until `over` is set.

    Returns: whether it was ever healthy, and so may have requests.
    """
    served = healthy = False
    interval = settings.lease_ttl_s / 3  # of a check as well as between two, so that a silent server's lease is renewed
    answered = 0.0
    started_at = time.time()
    while vllm.poll() is None and not over.is_set():
        began = time.monotonic()
        try:
            answers_well = _get(settings, "/health", interval) is not None
            answered = time.monotonic()
            if answers_well and not healthy:
                registration.serves(_served(settings, interval, started_at))
        except TimeoutError:
            silence = time.monotonic() - answered
            answers_well = healthy and silence < SILENCE_S
            if answers_well:
                log.info("no answer to /health for %.1f s: vLLM may be busy", silence)
        if answers_well:
            if not healthy:
                log.info("vLLM is healthy")
            served = healthy = True
            registration.keep()
        elif healthy:
            log.warning("vLLM is not healthy: leaving etcd until it is")
            healthy = False
            registration.lapse()
        asked = time.monotonic()
        if healthy and answered >= began:  # it may load and unload adapters at any time
            with contextlib.suppress(TimeoutError):  # busy by now; the lease was renewed before this wait
                if registration.serves(_served(settings, interval, started_at)):
                    registration.keep()
        over.wait(max(0.0, asked + interval - time.monotonic()))
    return served


def _drain(vllm: "subprocess.Popen[bytes]", settings: LauncherSettings) -> None:
    """Wait until no request is left, at most the grace period.

    Once is not enough: proxies hear a moment later that it has left etcd, and vLLM answers nothing that comes to it
    while it stops.
    """
    deadline = time.monotonic() + settings.shutdown_grace_s
    was_idle = False
    while vllm.poll() is None and time.monotonic() < deadline:
        idle = False
        try:
            metrics = _get(settings, "/metrics", METRICS_TIMEOUT_S)
        except TimeoutError:  # e.g. a long step in the server's own process: no sign that it is idle
            metrics = None
        if metrics is None:
            log.info("waiting: /metrics does not answer")
        elif requests := _unfinished_requests(metrics):
            log.info("waiting for %d requests to finish", requests)
        elif was_idle:
            return
        else:
            idle = True
        was_idle = idle
        time.sleep(LOOK_S)
    if vllm.poll() is None and not was_idle:
        log.warning("stopping with requests unfinished after %g s", settings.shutdown_grace_s)


def _unfinished_requests(metrics: str) -> int:
    values = re.findall(r"^vllm:num_requests_(?:running|waiting)(?:{.*})? (\S+)$", metrics, re.MULTILINE)
    return int(sum(map(float, values)))


def _stop(vllm: "subprocess.Popen[bytes]") -> None:
    if vllm.poll() is None:
        vllm.terminate()
        try:
            vllm.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.warning("vLLM did not end within %g s of SIGTERM: killing it", STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(vllm.pid, signal.SIGKILL)  # whatever it left behind: engine core, workers
    vllm.wait()


def _get(settings: LauncherSettings, path: str, timeout_s: float) -> str | None:
    """Body of a 200 answer from the instance, None for another answer or a refused connection.

    Raises: TimeoutError: no answer.
    """
    url = addresses.http_url(addresses.reachable(settings.listen_host or settings.host), settings.port)
    try:
        headers = {"Authorization": f"Bearer {settings.openai_api_key}"} if settings.openai_api_key else {}
        request = urllib.request.Request(url + path, headers=headers)
        with open_directly(request, timeout_s) as answer:
            return str(answer.read().decode())
    except TimeoutError:
        raise
    except OSError as error:
        if isinstance(getattr(error, "reason", None), TimeoutError):  # urllib's wrapping, while it connects
            raise TimeoutError from error
        return None


def _served(settings: LauncherSettings, timeout_s: float, since: float) -> dict[str, Any]:
    """As `served_models.of_answer`; nothing where the instance does not say it. Raises: TimeoutError: no answer."""
    answer = _get(settings, "/v1/models", timeout_s)
    return {} if answer is None else served_models.of_answer(answer, since)


def _instance(settings: LauncherSettings, instance_id: str) -> Instance:
    pairing = vllm_command.pairing(settings)
    return Instance(
        role=settings.role,
        instance_id=instance_id,
        url=addresses.http_url(settings.host, settings.port),
        served_models=(settings.served_name,),
        model=settings.model,
        max_model_len=settings.max_model_len,
        block_size=settings.block_size,
        dtype=vllm_command.dtype(settings),
        tensor_parallel_size=settings.tensor_parallel_size,
        pipeline_parallel_size=settings.pipeline_parallel_size,
        fingerprint=fingerprint(**pairing),
        pairing=pairing,
        kv_transfer=vllm_command.kv_transfer(settings, instance_id),
        engines=vllm_command.engines(settings, instance_id),
        store=store.shared(settings, pairing, vllm_command.vllm_version()),
        vllm_version=vllm_command.vllm_version(),
        connector_version=__version__,
        started_at=time.time(),
    )


if __name__ == "__main__":
    sys.exit(main())

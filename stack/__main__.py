"""Starts, shows and stops the stack, with Docker where an engine answers and as processes of this machine otherwise.

Usage: python -m stack up|down|status|logs|load|clean     (`make` calls it; see `make help`)
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from stack import doctor, install
from stack.configuration import env_file
from stack.configuration.environment import load_or_exit
from stack.configuration.settings import EMBEDDED_MODEL, OBSERVABILITY, REPOSITORY, SERVICES, STORE, StackSettings
from stack.host.one_at_a_time import one_at_a_time
from stack.installation import environments, system_libraries
from stack.network import addresses
from stack.running import compose
from stack.running.compose import Compose
from stack.running.processes import Processes, StartError
from stack.running.services import services

READY = """\

The stack is ready after {elapsed:.0f} s.

  Console  {api}/   (what the stack does: its map, each request's waterfall, a prompt to try)
  API      {api}   (OpenAI's; model {model})
  Locust   {locust}

Try it:

  curl -s {completions} -H "Content-Type: application/json" -d '{{
    "model": "{model}",
    "prompt": "San Francisco is a",
    "max_tokens": 1000
  }}'
{split}
Look at it with `make status` and `make logs`, stop it with `make down`."""

# The prompt above is shorter than what is worth a transfer: by itself it would show an ordinary server.
SPLIT = """
So short a prompt the decode instance computes itself. This one is split, and the headers say so: x-pd-path tells the
way, x-pd-kv-bytes how much of the KV cache came from the prefill instance, server-timing where the time went.

  curl -s -D- {completions} -H "Content-Type: application/json" -d '{{
    "model": "{model}", "prompt": "'"$(seq -s ' ' 1 300)"'", "max_tokens": 8}}'
"""

# Without the proxy there is no API on this machine to try.
PART_READY = """\

Ready after {elapsed:.0f} s: {services}. The API is where the proxy of this stack runs.
Look at it with `make status` and `make logs`, stop it with `make down`."""


def up(settings: StackSettings) -> int:
    started = time.monotonic()
    settings.stack_dir.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(settings.stack_dir / "up.lock"):
        processes = Processes(settings)
        with_docker = _uses_docker(settings) and not processes.is_up()
        print(f"starting {'with Docker' if with_docker else 'as processes of this machine'}", flush=True)
        if doctor.examine(settings, with_docker=with_docker) != 0:
            return 1
        status = _up_with_docker(settings) if with_docker else _up_as_processes(settings, processes)
    if status == 0:
        print(farewell(settings, time.monotonic() - started))
        for line in observers(settings, with_docker=with_docker):
            print(line)
    return status


def farewell(settings: StackSettings, elapsed_s: float) -> str:
    """What a person does next."""
    if "proxy" not in settings.stack_services:
        return PART_READY.format(elapsed=elapsed_s, services=", ".join(settings.stack_services))
    api, locust = (addresses.http_url(_shown(settings), port) for port in (settings.proxy_port, settings.locust_port))
    completions = shlex.quote(api + "/v1/completions")  # brackets mean something to a shell
    split = "" if settings.is_baseline else SPLIT.format(completions=completions, model=settings.model_name)
    return READY.format(
        elapsed=elapsed_s, api=api, completions=completions, locust=locust, model=settings.model_name, split=split
    )


def observers(settings: StackSettings, *, with_docker: bool) -> list[str]:
    """Where a person finds what compose.observability.yaml adds; on loopback, so only from this machine."""
    if not settings.is_observed:
        return []
    lines = [f"Prometheus: http://localhost:{settings.prometheus_port} (alerts, queries)"]
    return [f"Grafana: http://localhost:{settings.grafana_port} (dashboards, traces)", *lines] if with_docker else lines


def _up_with_docker(settings: StackSettings) -> int:
    try:
        return Compose(settings).up()
    except subprocess.CalledProcessError as error:
        print(f"what the images are built from is not to be had: {error}", file=sys.stderr)
        return 1


def _up_as_processes(settings: StackSettings, processes: Processes) -> int:
    try:
        system_libraries.install(system_libraries.for_processes(settings))
        install.install(environments.needed_by(settings.stack_services, settings), settings)
        processes.prepare()
        processes.up()
    except (install.InstallError, system_libraries.MissingLibraryError, StartError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def down(settings: StackSettings) -> int:
    """Ends what `up` started, whichever way it was."""
    processes = Processes(settings)
    if not processes.has_run() and _uses_docker(settings):
        status = Compose(settings).call("down", "--remove-orphans")
        kept = "images and volumes (model, key, etcd's data)"
    else:
        processes.down()
        status, kept = 0, f"environments, model, key and logs in {settings.stack_dir}"
    if status == 0:
        print(f"stopped; kept: {kept}; `make clean` removes them")
    return status


def show_status(settings: StackSettings) -> int:
    processes = Processes(settings)
    if processes.is_up():
        _print_table(processes.status())
        return 0
    if _uses_docker(settings):
        return Compose(settings).call("ps", "--all")
    print("not running; start with `make up`")
    return 0


def logs(settings: StackSettings, names: Sequence[str], mode: str) -> int:
    """The last 100 lines of each service, or of those named; `mode` "follow" goes on until interrupted."""
    follow = ["--follow"] if mode == "follow" else []
    processes = Processes(settings)
    if not processes.is_up() and _uses_docker(settings) and Compose(settings).is_up():
        return Compose(settings).call("logs", "--tail", "100", *follow, *names)
    files = processes.log_files(names)
    if not files:
        print(f"no logs in {processes.logs}", file=sys.stderr)
        return 1
    # GNU tail's own word for following a file by name, so that rotation does not lose it.
    tail = ["tail", "--lines=100", *(["-F"] if follow else []), *map(str, files)]
    return subprocess.run(tail, check=False).returncode


def load(settings: StackSettings, arguments: Sequence[str]) -> int:
    """A headless load test against the running stack; exit status 1 when a request failed."""
    command = ["python", "-m", "loadtest", "--headless", *arguments]
    if not Processes(settings).is_up() and _uses_docker(settings):
        return Compose(settings).call("exec", "--no-TTY", "loadtest", *command, "--host", "http://proxy:8000")
    install.install([environments.LOADTEST], settings)
    command[0] = str(environments.LOADTEST.python(settings))
    (service,) = services(settings.model_copy(update={"stack_services": ("loadtest",)}))
    return subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **service.environment}, check=False).returncode


def clean(settings: StackSettings) -> int:
    """Ends the stack and removes what set-up made, and nothing else that lies in the same folders."""
    Processes(settings).down()
    if _uses_docker(settings):
        status = Compose(settings).call("down", "--remove-orphans", "--volumes", "--rmi", "all")
        if status != 0:
            return status
    state = settings.stack_dir
    made = [settings.venvs / name for name in (*environments.NAMES, ".lock", "tools.lock")]
    made += [settings.models / EMBEDDED_MODEL, settings.models / f".{EMBEDDED_MODEL}.lock"]
    made += [settings.key_file, state / "logs", state / "prometheus", state / "up.lock"]
    for path in made:
        if path.is_dir():
            print(f"removing {path}", flush=True)
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for folder in (settings.venvs, settings.models, state):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return 0


def _uses_docker(settings: StackSettings) -> bool:
    if settings.stack_mode == "auto":
        return compose.is_available()
    return settings.stack_mode == "docker"


def _shown(settings: StackSettings) -> str:
    return "localhost" if settings.bind_address in ("127.0.0.1", *addresses.EVERYWHERE) else settings.client_host


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "down", "status", "clean"):
        commands.add_parser(name)
    log = commands.add_parser("logs")
    log.add_argument("--follow", dest="mode", action="store_const", const="follow", default="last")
    log.add_argument("services", nargs="*", choices=[*SERVICES, *STORE, *OBSERVABILITY, []], default=[])
    commands.add_parser("load")
    arguments, rest = parser.parse_known_args()
    if rest and arguments.command != "load":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    arguments.rest = rest
    return arguments


def main() -> int:
    arguments = _arguments()
    os.chdir(REPOSITORY)
    env_file.apply_or_exit()
    settings = load_or_exit(StackSettings)
    match arguments.command:
        case "up":
            return up(settings)
        case "down":
            return down(settings)
        case "status":
            return show_status(settings)
        case "logs":
            return logs(settings, arguments.services, arguments.mode)
        case "load":
            return load(settings, arguments.rest)
        case _:
            return clean(settings)


if __name__ == "__main__":
    sys.exit(main())

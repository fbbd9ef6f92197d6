"""What a run was: enough to judge its figures and to repeat it. Nothing that names a machine or opens a door."""

import json
import re
import shlex
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request

from pydantic import BaseModel

from loadtest.settings import LoadTestSettings
from stack import __version__
from stack.host import machine
from stack.network.direct_http import open_directly

_PACKAGES = re.compile(r"locust|gevent|geventhttpclient|numpy", re.IGNORECASE)
# Secrets, and folders of the machine.
_NOT_OF_THE_RUN = ("openai_api_key", "stack_dir", "loadtest_run_dir")
_TIMEOUT_S = 3.0  # a target that does not say what it is must not hold the test up
_NOT_OF_THE_INSTANCE = (
    "outstanding",
    "age_s",
    "pairs_with",
    "not_paired",
    "pairs_with_count",
    "not_paired_count",
    "fingerprint",
    "url",
)


class Manifest(BaseModel):
    """load_s: when no more load was offered, in seconds since the schedule's zero; None: the run was killed.

    instances: what the stack's proxy tells of its vLLM servers; empty with other targets. servers: their versions.
    cpu_share: of one core, of the load generator's busiest process in its busiest 5 s. problems: of the test itself,
    like a worker that was lost.
    """

    target: str
    models: list[str] = []
    instances: list[dict[str, Any]] = []
    servers: dict[str, list[str]] = {}
    seed: int
    warmup_s: float
    workers: int = 1
    command: str
    stack: str = __version__
    versions: dict[str, str]
    hardware: dict[str, str]
    started_at: str
    ended_at: str | None = None
    load_s: float | None = None
    cpu_share: float | None = None
    problems: list[str] = []


def manifest(settings: LoadTestSettings) -> Manifest:
    """As the run begins, before the target was asked."""
    return Manifest(
        target=settings.target,
        models=[settings.loadtest_model] if settings.loadtest_model else [],
        seed=settings.loadtest_seed,
        warmup_s=settings.loadtest_warmup_s,
        command=shlex.join(["python", "-m", "loadtest", *_options(sys.argv[1:])]),
        versions=_versions(),
        hardware=machine.hardware(),
        started_at=now(),
    )


def ask_target(settings: LoadTestSettings, told: Manifest) -> None:
    """Add what the target says of itself; a target that says nothing adds nothing."""
    models = _objects(_answer(settings, "/v1/models"), "data")
    told.models = told.models or [str(model["id"]) for model in models if "id" in model]
    told.instances = [
        {name: value for name, value in instance.items() if name not in _NOT_OF_THE_INSTANCE}
        for instance in _objects(_answer(settings, "/instances"), "instances")
    ]
    servers = {
        name: sorted({str(instance[field]) for instance in told.instances if instance.get(field)})
        for name, field in (("vLLM", "vllm_version"), ("connector", "connector_version"))
    }
    if not told.instances and (version := (_answer(settings, "/version") or {}).get("version")):
        servers["vLLM"] = [str(version)]
    told.servers = {name: versions for name, versions in servers.items() if versions}


def plain_settings(settings: LoadTestSettings) -> dict[str, Any]:
    """All but secrets and folders, by the names of `.env`."""
    return {
        name.upper(): _plain(name, value)
        for name, value in settings.model_dump(mode="json").items()
        if name not in _NOT_OF_THE_RUN
    }


@cache
def _versions() -> dict[str, str]:
    """Asked of git and of every installed package: once is enough."""
    return machine.versions("", _PACKAGES)


def _options(arguments: list[str]) -> list[str]:
    """Without the Locust file, which `python -m loadtest` adds."""
    return arguments[2:] if arguments[:1] == ["-f"] else arguments


def _objects(answer: dict[str, Any] | None, member: str) -> list[dict[str, Any]]:
    found = (answer or {}).get(member)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _plain(name: str, value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and name.endswith("_file") else value


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _answer(settings: LoadTestSettings, path: str) -> dict[str, Any] | None:
    """The target's JSON object; None: it has no such path, or is not there."""
    key = settings.openai_api_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        with open_directly(Request(settings.target + path, headers=headers), _TIMEOUT_S) as response:
            found = json.load(response)
    except (URLError, OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None

"""Says whether the running stack has as many producers to a consumer as its traffic of the last minutes wants.

Usage: python -m stack.ratio     (`make ratio`; the console's "Now" says the same)
OPENAI_API_KEY is sent where it is set. Exit status 1 where the ratio is wrong or there are too few of both,
2 where the proxy does not say. docs/scaling.md has the arithmetic.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from stack.configuration import env_file
from stack.configuration.environment import load_or_exit
from stack.configuration.settings import REPOSITORY, StackSettings
from stack.network.direct_http import open_directly

PATH = "/console/api/ratio"
LIMIT_S = 10.0
KEY = "OPENAI_API_KEY"
BAD = ("wrong", "few")

Json = dict[str, Any]


def ask(url: str, key: str | None) -> Json:
    """Raises: OSError, HTTPException, ValueError: nobody answers there, or not as a proxy does."""
    request = urllib.request.Request(url + PATH, headers={"Authorization": f"Bearer {key}"} if key else {})
    with open_directly(request, LIMIT_S) as answer:
        found: Json = json.loads(answer.read())
        return found


def sentence(verdict: Json, tpot_ms: float) -> str:
    producers, consumers = verdict["producers"], verdict["consumers"]
    minutes = f"{verdict['minutes']:g} minutes"
    change = changes(verdict)
    said = {
        "wrong": f"the ratio is wrong: {change}",
        "few": f"too few of both: {change}",
        "many": f"nothing is short, and fewer would do: {change}",
        "right": "the ratio is right",
        "little": f"too little load in the last {minutes} to say",
        "unknown": f"not watched for {minutes} yet",
    }[verdict["says"]]
    used = f"{_counted(producers['number'], 'producer')} used {producers['use']:.0%}, {_wait(verdict)}"
    cache = "not known" if verdict["cache_usage"] is None else f"{verdict['cache_usage']:.0%}"
    itl = "–" if verdict["itl_ms"] is None else f"{verdict['itl_ms']:.0f}"
    held = f"{_counted(consumers['number'], 'consumer')} used {consumers['use']:.0%}, KV cache {cache}"
    return f"{verdict['model']}: {said} ({used}; {held}, ITL {itl} of {tpot_ms:g} ms)"


def changes(verdict: Json) -> str:
    """Such as "1 more producer, 2 fewer consumers"; empty where nothing is to change."""
    parts = ((verdict[side]["change"], side.removesuffix("s")) for side in ("producers", "consumers"))
    return ", ".join(
        _counted(abs(change), f"{'more' if change > 0 else 'fewer'} {name}") for change, name in parts if change
    )


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _wait(verdict: Json) -> str:
    wait = "" if verdict["wait_ms"] is None else f" ({verdict['wait_ms'] / 1000:.1f} s)"
    return f"{verdict['tokens_waiting']:,} tokens waiting{wait}"


def main() -> int:
    os.chdir(REPOSITORY)
    env_file.apply_or_exit()
    settings = load_or_exit(StackSettings)
    url = settings.proxy_url
    try:
        found = ask(url, os.environ.get(KEY))
    except urllib.error.HTTPError as error:
        hint = f"; set {KEY} to a key of PROXY_API_KEYS" if error.code == 401 else ""
        print(f"{url}{PATH} answered {error.code}{hint}", file=sys.stderr)
        return 2
    except (OSError, HTTPException, ValueError) as error:
        print(f"the proxy does not say: {url}{PATH}: {error}", file=sys.stderr)
        return 2
    verdicts = found["verdicts"]
    for verdict in verdicts:
        print(sentence(verdict, found["tpot_ms"]))
    if not verdicts:
        print("no model has both producers and consumers")
    return 1 if any(verdict["says"] in BAD for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())

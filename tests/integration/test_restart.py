"""The decode server is killed: clients are told so within the lease, and nothing but it has to start again."""

import json
import urllib.error
import urllib.request

from tests.integration.answers import greedy
from tests.real_stack import LEASE_TTL_S, START_LIMIT_S, RealStack, answers, wait_until

PROMPT = list(range(100, 200))


def status_of_a_request(stack: RealStack) -> tuple[int, str]:
    """HTTP status and error message."""
    body = json.dumps({"model": "SmolLM2-135M-Instruct", "prompt": PROMPT, "max_tokens": 1}).encode()
    request = urllib.request.Request(stack.api_url + "/v1/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.status), ""
    except urllib.error.HTTPError as error:
        return error.code, str(json.load(error)["error"]["message"])


async def test_a_killed_decode_server_is_missed_and_replaced(stack: RealStack) -> None:
    (before,) = await greedy(stack.api_url, [PROMPT], at_once=1)
    pids = stack.pids
    server = stack.vllm_server("decode")
    family = [server, *server.children(recursive=True)]
    server.kill()

    def told() -> bool:
        status, message = status_of_a_request(stack)
        assert status in (502, 503), f"{status} {message}: a request got an answer from a dead server"
        # Not yet where the circuit breaker alone says so: "Left alone after failures: ...".
        return status == 503 and message == "No decode instance is available."

    # The launcher leaves etcd as soon as vLLM has ended; were it dead too, the lease would end by itself.
    wait_until(told, 2 * LEASE_TTL_S, "the proxy says 503 and names the missing role")
    assert not answers(stack.api_url + "/ready")
    wait_until(lambda: not any(p.is_running() for p in family), 30, "nothing is left of the killed server")

    # The supervisor starts it again by itself.
    wait_until(lambda: answers(stack.api_url + "/ready"), START_LIMIT_S, "the new decode server is registered")
    assert await greedy(stack.api_url, [PROMPT], at_once=1) == [before]
    now = stack.pids
    assert now.pop("decode") != pids.pop("decode")
    assert now == pids, "nothing else was restarted"

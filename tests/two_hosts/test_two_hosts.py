"""The seed document's example: prefill on 192.168.0.137; decode, etcd and the proxy on 192.168.0.139; KV over TCP.

Each host is started with `make up` and the `.env` that README's table shows; its instances read one `mooncake.json`.
"""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.real_stack import MODEL, START_LIMIT_S, answers, metrics, wait_until
from tests.two_hosts.hosts import two_hosts
from tests.two_hosts.nodes import DECODE, ETCD, PREFILL, PROXY, Node, node

RATE = "200mbit"  # a long prompt's cache of 45 MB takes two seconds, so that the wire can be cut in between
PROMPT_TOKENS = 1000
ENDS_S = 90  # what must end at all


# What a client may be told of a cut wire: by status, the cause that the message names.
CAUSES = {
    502: "^The (prefill|decode) instance .+ (cannot be reached|answered|ended|broke)",
    503: "^No prefill instance is available",
    504: " (took longer than|has sent no token for) [0-9.]+ s",
}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    folder = tmp_path_factory.mktemp("two-hosts")
    with (
        two_hosts(PREFILL, DECODE, RATE) as (first, second),
        node(second, folder / "decode", "etcd,decode,proxy") as decode,
        node(first, folder / "prefill", "prefill") as prefill,
    ):
        starting = second.call(decode.up)
        wait_until(lambda: second.call(answers, f"http://{ETCD}/health").result(), START_LIMIT_S, "etcd")
        prefill.up()
        starting.result()
        wait_until(lambda: second.call(answers, f"{PROXY}/ready").result(), ENDS_S, "the proxy sees both roles")
        yield prefill, decode


def complete(number: int) -> tuple[int, str, dict[str, Any]]:
    """Status, path through the stack, and body of a greedy completion of the prompt with this number."""
    prompt = [1000 + number, *range(2000, 2000 + PROMPT_TOKENS)]
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0}
    request = urllib.request.Request(
        f"{PROXY}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=ENDS_S) as answer:
            return answer.status, answer.headers["X-PD-Path"], json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, "", json.load(error)


def transports() -> dict[str, list[str]]:
    """By role, as the proxy found them in etcd."""
    with urllib.request.urlopen(f"{PROXY}/instances", timeout=ENDS_S) as answer:
        return {instance["role"]: instance["transports"] for instance in json.load(answer)["instances"]}


def test_the_cache_crosses_the_wire_and_a_cut_wire_ends_every_request(nodes: tuple[Node, Node]) -> None:
    prefill, decode = nodes
    first, second = prefill.host, decode.host
    before = second.received_bytes()
    status, path, _ = second.call(complete, 0).result()
    assert (status, path) == (200, "disaggregated")
    received = second.call(metrics, f"http://{DECODE}:8200").result()["pd_kv_received_bytes_total"]
    assert received > 0
    assert second.received_bytes() - before > received
    assert second.call(transports).result() == {"prefill": ["tcp"], "decode": ["tcp"]}

    before = second.received_bytes()
    running = [second.call(complete, number) for number in (1, 2, 3)]
    wait_until(lambda: second.received_bytes() > before + (4 << 20), ENDS_S, "a transfer is under way")
    first.cut()
    wait_until(
        lambda: not second.call(answers, f"{PROXY}/ready").result(), ENDS_S, "the proxy misses the producer's lease"
    )
    first.mend()
    ended = [request.result() for request in running]

    wait_until(lambda: second.call(answers, f"{PROXY}/ready").result(), ENDS_S, "the producer is registered again")
    print(
        "cut in mid-transfer:", *(f"{status}, {body.get('error', 'answered')}" for status, _, body in ended), sep="\n"
    )
    right = [second.call(complete, number).result() for number in (1, 2, 3)]
    assert [status for status, _, _ in right] == [200, 200, 200]
    for (status, _, body), (_, _, expected) in zip(ended, right, strict=True):
        if status == 200:
            assert body["choices"][0]["text"] == expected["choices"][0]["text"]
        else:
            assert status in CAUSES
            assert body["error"].keys() == {"message", "type", "param", "code"}
            assert re.search(CAUSES[status], body["error"]["message"]), body
    status, path, _ = second.call(complete, 4).result()
    assert (status, path) == (200, "disaggregated")

"""`docker compose up --build --wait` with the real images, used as in the README: curl, chat, streaming, Locust."""

import json
import subprocess
import time
import urllib.parse
import urllib.request
from typing import Any

import pytest

from tests.compose.project import Project

MODEL = "SmolLM2-135M-Instruct"
ANSWER_LIMIT_S = 120
FOLLOW_LIMIT_S = 30  # an instance registers within a third of its lease once vLLM is healthy

pytestmark = pytest.mark.timeout(3000)  # the first test waits for the images


def post(project: Project, path: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(
        project.proxy_url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=ANSWER_LIMIT_S) as answer:
        assert answer.status == 200
        return bytes(answer.read())


def instances(project: Project) -> list[dict[str, Any]]:
    with urllib.request.urlopen(project.proxy_url + "/instances", timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["instances"]
    return found


def wait_for_roles(project: Project, expected: list[str]) -> None:
    """Until the proxy knows exactly these instances, by role."""
    deadline = time.monotonic() + FOLLOW_LIMIT_S
    while (roles := sorted(instance["role"] for instance in instances(project))) != expected:
        assert time.monotonic() < deadline, f"the proxy sees {roles}, expected {expected}"
        time.sleep(0.2)


def test_every_service_is_healthy_and_prepare_has_ended(project: Project) -> None:
    states = {
        container["Config"]["Labels"]["com.docker.compose.service"]: container["State"]
        for container in project.inspect()
    }
    assert states.pop("prepare")["ExitCode"] == 0
    assert {service: state["Health"]["Status"] for service, state in states.items()} == dict.fromkeys(
        ("etcd", "prefill", "decode", "proxy", "loadtest", "loadtest-worker"), "healthy"
    )


def test_the_curl_of_the_readme_gets_an_answer_whose_prompt_came_from_the_prefill_instance(project: Project) -> None:
    counting = " ".join(map(str, range(1, 301)))  # long enough to be split
    body = {"model": MODEL, "prompt": counting, "max_tokens": 30, "temperature": 0, "ignore_eos": True}
    curl = ["curl", "-sS", "--max-time", str(ANSWER_LIMIT_S), "-H", "Content-Type: application/json"]
    printed = subprocess.run(
        [*curl, f"{project.proxy_url}/v1/completions", "-d", json.dumps(body)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    answer = json.loads(printed)
    assert answer["usage"]["completion_tokens"] == 30
    assert answer["choices"][0]["text"].strip()
    assert answer["kv_transfer_params"]["tokens"] == answer["usage"]["prompt_tokens"]
    assert answer["kv_transfer_params"]["bytes"] > 0
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, "one server would have found none"


def test_a_streamed_chat_comes_in_pieces(project: Project) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 12}
    lines = post(project, "/v1/chat/completions", {**body, "stream": True, "temperature": 0}).decode().splitlines()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    pieces = [json.loads(event)["choices"][0]["delta"].get("content") for event in events[:-1]]
    assert len([piece for piece in pieces if piece]) > 1


def test_a_headless_load_test_inside_the_stack_has_no_failure(project: Project) -> None:
    locust = ("python", "-m", "loadtest", "--headless", "--users", "3", "--spawn-rate", "3", "--run-time", "10s")
    shape = ("--input-tokens", "60", "--output-tokens", "8", "--only-summary", "--json")
    printed = project.compose("exec", "-T", "loadtest", *locust, *shape)  # a failed request is exit code 1
    statistics = {entry["name"]: entry for entry in json.loads(printed)}
    assert statistics["TTFT"]["num_requests"] > 0
    assert statistics["/v1/completions"]["num_failures"] == 0


def test_locusts_page_answers(project: Project) -> None:
    with urllib.request.urlopen(project.locust_url, timeout=10) as page:
        assert b"<title>Locust</title>" in page.read()


def test_workers_of_the_page_make_one_schedule(project: Project) -> None:
    """Started as the page's form starts it; the workers have connected, because each is healthy only then."""
    project.up("--scale", "loadtest-worker=2")
    form = {"user_count": "1", "spawn_rate": "1", "arrivals": "poisson", "rate": "4", "requests": "12"}
    shape = {"input_tokens": "60", "output_tokens": "8"}
    with urllib.request.urlopen(f"{project.locust_url}/swarm", urllib.parse.urlencode(form | shape).encode()) as answer:
        assert json.load(answer)["success"]
    deadline = time.monotonic() + ANSWER_LIMIT_S
    while (told := told_by_locust(project))["state"] != "stopped":
        assert time.monotonic() < deadline, told
        time.sleep(0.2)
    rows = {row["name"]: row for row in told["stats"]}
    assert (rows["/v1/completions"]["num_requests"], rows["/v1/completions"]["num_failures"]) == (12, 0)
    project.up("--scale", "loadtest-worker=1")


def told_by_locust(project: Project) -> dict[str, Any]:
    with urllib.request.urlopen(f"{project.locust_url}/stats/requests", timeout=10) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def test_more_and_fewer_instances_without_editing_a_file(project: Project) -> None:
    project.up("--scale", "decode=2")
    wait_for_roles(project, ["decode", "decode", "prefill"])
    for _ in range(4):  # whichever consumer is chosen
        post(project, "/v1/completions", {"model": MODEL, "prompt": "One, two,", "max_tokens": 4})
    project.up("--scale", "decode=1")
    wait_for_roles(project, ["decode", "prefill"])
    post(project, "/v1/completions", {"model": MODEL, "prompt": "One, two,", "max_tokens": 4})

"""How the proxies are started: CPUs, addresses, and one line for what cannot work."""

from pathlib import Path

import pytest

from benchmarks.errors import CannotStart
from benchmarks.proxy.cpus import Layout, layout
from benchmarks.proxy.options import parse
from benchmarks.proxy.proxies.peers import peers, seed_program
from benchmarks.proxy.stage import Target, in_turn
from benchmarks.proxy.upstreams.upstream import Upstream

UPSTREAM = Upstream(21000, 21016, "127.0.0.1:21032")
SEED = """
Start it with:
```python
app = Quart(__name__)
PREFILL, DECODE = 'http://localhost:8100/v1/completions', 'http://192.168.0.139:8200/v1/completions'
app.run(host="0.0.0.0",port=8000)
```
```python
print("another program")
```
"""


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        ([[0]], Layout((0,), (0,), (0,))),
        ([[0], [1]], Layout((0, 1), (1,), (1,))),
        ([[0], [1], [2], [3]], Layout((0, 1), (2,), (3,))),
        ([[0, 4], [1, 5], [2, 6], [3, 7]], Layout((0, 1), (2,), (3,))),
        ([[cpu] for cpu in range(8)], Layout((0, 1), (2, 3, 4), (5, 6, 7))),
    ],
)
def test_a_core_is_shared_only_where_there_are_too_few(cores: list[list[int]], expected: Layout) -> None:
    assert layout(cores, 2) == expected


def test_a_layout_says_when_the_second_worker_is_not_alone() -> None:
    assert "second worker shares" in layout([[0], [1]], 2).describe()
    assert "second worker" not in layout([[0], [1], [2], [3]], 2).describe()


def test_the_seeds_program_gets_the_addresses_of_the_run() -> None:
    program = seed_program(SEED, 25000, UPSTREAM)
    assert "'http://127.0.0.1:21000/v1/completions', 'http://127.0.0.1:21016/v1/completions'" in program
    assert 'app.run(host="127.0.0.1",port=25000)' in program
    assert "another program" not in program


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("```python\nprint()\n```", "expected one program with Quart(__name__), found 0"),
        ("app = Quart(__name__)\napp.run()", "expected http://"),
    ],
)
def test_a_page_without_the_program_is_refused(text: str, line: str) -> None:
    with pytest.raises(CannotStart) as refused:
        seed_program(text, 25000, UPSTREAM)
    assert line in str(refused.value)


def test_our_proxy_gets_its_workers_and_the_etcd_that_knows_the_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY_MAX_QUEUED_REQUESTS", "1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    options = parse(["latency", "--peers", "ours,ours-2-workers", "--ours-env", "PROXY_BREAKER_FAILURES=9"])
    one, two = (peer.launch(25000, UPSTREAM, (3, 5)) for peer in peers(options))
    assert (one.name, two.name) == ("ours", "ours-2-workers")
    assert one.command[:3] == ("taskset", "--cpu-list", "3")
    assert two.command[:3] == ("taskset", "--cpu-list", "3,5")
    expected = {
        "PROXY_WORKERS": "2",
        "PROXY_PORT": "25000",
        "ETCD_ENDPOINT": UPSTREAM.etcd,
        "PROXY_BREAKER_FAILURES": "9",
    }
    assert expected.items() <= two.environment.items()
    assert not {"PROXY_MAX_QUEUED_REQUESTS", "http_proxy"} & set(two.environment)


def test_proxies_whose_program_is_not_given_are_left_out(tmp_path: Path) -> None:
    assert [peer.name for peer in peers(parse(["latency", "--peers", "seed,ours"]))] == ["ours"]


def test_an_earlier_checkout_is_started_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "proxy").mkdir()
    (before,) = peers(parse(["latency", "--peers", "ours-before", "--before", str(tmp_path)]))
    assert before.launch(25000, UPSTREAM, (3, 5)).folder == tmp_path
    assert peers(parse(["latency", "--peers", "ours-before"])) == []


def test_only_one_proxy_has_its_console_open() -> None:
    found = peers(parse(["latency", "--peers", "ours,ours-console-open,bare"]))
    assert [(peer.name, peer.console) for peer in found] == [
        ("ours", False),
        ("ours-console-open", True),
        ("bare", False),
    ]


def test_no_proxy_is_always_measured_after_the_same_one() -> None:
    targets = [Target(name, 0) for name in "abc"]
    turns = [f"{number}{target.name}" for number, target in in_turn(targets, 3)]
    assert turns == ["0a", "0b", "0c", "1b", "1c", "1a", "2c", "2a", "2b"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["speed"], "invalid choice: 'speed'"),
        (["latency", "--peers", "nginx"], "'nginx': expected some of ours,"),
        (["latency", "--rounds", "0"], "'0': expected 1 or more"),
        (["latency", "--seed-proxy", "/nowhere.py"], "--seed-proxy='/nowhere.py': expected a file"),
        (["latency", "--before", "/nowhere"], "--before='/nowhere': expected a checkout of this repository"),
        (["latency", "--toy-proxy", __file__], "--vllm-version='': expected the version or commit"),
        (["latency", "--ours-env", "PROXY_WORKERS"], "--ours-env='PROXY_WORKERS': expected NAME=VALUE"),
    ],
)
def test_what_cannot_work_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(words)
    assert exit_.value.code == 2
    assert line in capsys.readouterr().err

"""Our load test and `vllm bench serve` on the same load, in turn: do they tell the same of the same server?

Both offer prompts of random words of the same length, at the same mean rate with Poisson arrivals, as often, and let
every answer be as long. Each has random numbers of its own, so rounds differ; medians over rounds are compared.
"""

import json
from collections.abc import Callable

import numpy as np

from benchmarks.errors import RequestFailed
from benchmarks.loadtest import accuracy
from benchmarks.loadtest.run import Run
from benchmarks.soak import starting
from benchmarks.tables import Row
from stack.configuration.environment import load_or_exit
from stack.configuration.settings import StackSettings

WARM_UP_REQUESTS = 10  # the first ones find memory that nobody has touched yet


def measure(run: Run) -> None:
    """Adds a row for each load to the table `agreement`."""
    options = run.options
    if "scripted" in options.targets:
        with run.scripted(accuracy.TTFT_S, accuracy.GAP_S) as server:
            _alternate(run, "scripted", server.url, options.scripted_rate, options.scripted_requests)
    if "stack" in options.targets:
        settings = load_or_exit(StackSettings)
        with starting.running(settings):
            url = settings.proxy_url
            ours(run, url, options.agreement_rate, WARM_UP_REQUESTS, seed=options.rounds)
            _alternate(run, "stack", url, options.agreement_rate, options.agreement_requests)


def _alternate(run: Run, target: str, url: str, rate: float, requests: int) -> None:
    tools: dict[str, Callable[..., Row]] = {"ours": ours, "vllm": vllm}
    for number in range(run.options.rounds):
        names = list(tools) if number % 2 == 0 else list(reversed(tools))
        for name in names:
            try:
                row = tools[name](run, url, rate, requests, seed=number)
            except RequestFailed as error:
                row = {"failed": str(error)}
            run.results.add("agreement", target=target, tool=name, round=number, **row)
            run.results.write()
        print(f"agreement: {target}, round {number + 1} of {run.options.rounds} done", flush=True)


def ours(run: Run, url: str, rate: float, requests: int, *, seed: int) -> Row:
    options = run.options
    load = run.load(
        url,
        requests / rate,
        *("--arrivals", "poisson", "--rate", f"{rate:g}", "--requests", str(requests), "--seed", str(seed)),
        *("--workload", "random", "--input-tokens", str(options.input_tokens)),
        *("--output-tokens", str(options.output_tokens)),
    )
    done = load.completed
    return figures(
        [record.ttft for record in done if record.ttft is not None],
        [gap for record in done for gap in record.itl],
        [record.prompt_tokens for record in done if record.prompt_tokens is not None],
        len(load.records) - len(done),
    )


def vllm(run: Run, url: str, rate: float, requests: int, *, seed: int) -> Row:
    options = run.options
    file = run.scratch / "vllm.json"
    file.unlink(missing_ok=True)
    lengths = ("--random-input-len", str(options.input_tokens), "--random-output-len", str(options.output_tokens))
    words = [str(options.vllm_python), "-m", "benchmarks.loadtest.vllm_bench", "--base-url", url]
    words += ["--backend", "openai", "--endpoint", "/v1/completions", "--tokenizer", str(options.tokenizer)]
    words += ["--dataset-name", "random", *lengths, "--ignore-eos", "--seed", str(seed), "--disable-tqdm"]
    words += ["--request-rate", f"{rate:g}", "--num-prompts", str(requests)]
    words += ["--save-result", "--save-detailed", "--result-dir", str(file.parent), "--result-filename", file.name]
    run.tool(words, requests / rate)
    found = json.loads(file.read_text())
    good = [number for number, error in enumerate(found["errors"]) if not error]
    return figures(
        [found["ttfts"][number] for number in good],
        [gap for number in good for gap in found["itls"][number]],
        [found["input_lens"][number] for number in good],
        len(found["errors"]) - len(good),
    )


def figures(ttft_s: list[float], itl_s: list[float], prompt_tokens: list[int], failed: int) -> Row:
    return {
        "requests": len(ttft_s),
        "failed_requests": failed,
        "gaps": len(itl_s),
        "prompt_tokens": float(np.mean(prompt_tokens)) if prompt_tokens else None,
        **{
            f"{name}_{part}_s": float(np.percentile(values, percent))
            for name, values in (("ttft", ttft_s), ("itl", itl_s))
            for part, percent in (("p50", 50), ("p99", 99))
            if values
        },
    }

"""vLLM's schedulers, in turn and ahead of their output, with either model runner, take first tokens as they should.

Servers on a CPU have Model Runner V1 in turn only. Here nothing but the runner and the model is a stand-in.
"""

import json
import os
import subprocess
from typing import Any

import pytest

from stack.configuration.settings import REPOSITORY
from tests.integration.caches import models
from tests.integration.first_token import drive_schedulers
from tests.integration.first_token.drive_schedulers import PROMPTS

LIMIT_S = 300


@pytest.fixture(scope="module")
def all_driven(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(models.BY_NAME["llama"].config))
    done = subprocess.run(
        [REPOSITORY / ".stack/venv/vllm/bin/python", "-m", drive_schedulers.__name__, folder],
        cwd=REPOSITORY,
        env=os.environ | {"STACK_KEY": "0123456789abcdef", "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def driven(all_driven: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(all_driven["room"])


def wrong(driven: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {case: found for case, found in driven.items() if found["wrong"] or len(set(found["free"])) != 1}


def test_answers_are_right_and_every_block_is_free_again(driven: dict[str, dict[str, Any]]) -> None:
    assert not wrong(driven)


def test_answers_preempt_each_other(driven: dict[str, dict[str, Any]]) -> None:
    assert all(found["preempted"] for found in driven.values())


def test_each_first_token_is_counted_once(driven: dict[str, dict[str, Any]]) -> None:
    for case, found in driven.items():
        *_, token, load = case.split(", ")
        taken = token == "early" or (token == "with the cache" and load == "loaded")
        cause = "load failed" if load == "failed" else "none came"
        assert found["first"] == [["producer", ""] if taken else ["consumer", cause]] * len(PROMPTS), case


def test_a_cache_full_of_prompts_that_wait_does_not_stand_still(all_driven: dict[str, Any]) -> None:
    """Each of them would need one more block for its first token, and none would ever be free."""
    assert not wrong(all_driven["full"])

"""What is kept of an instance's /v1/models."""

import json
from typing import Any

import pytest

from connector.instance.served_models import of_answer


def card(name: str, made: int, **more: Any) -> dict[str, Any]:
    """As vLLM 0.32 has it."""
    permission = {"id": f"modelperm-{made}", "object": "model_permission", "created": made, "allow_view": True}
    bare = {"id": name, "object": "model", "created": made, "owned_by": "vllm", "root": f"/models/{name}"}
    return bare | {"parent": None, "max_model_len": 2048, "permission": [permission]} | more


def answer(*cards: dict[str, Any]) -> str:
    return json.dumps({"object": "list", "data": cards})


def test_the_models_in_vllms_words() -> None:
    said = of_answer(answer(card("a", 7), card("b", 7), card("x", 8, parent="a", max_model_len=None)), since=5.5)
    assert (said["served_models"], said["max_model_len"]) == (("a", "b", "x"), 2048)
    assert [(each.id, each.root, each.parent) for each in said["adapters"]] == [("x", "/models/x", "a")]
    first = said["models"][0]
    assert first.keys() == card("a", 7).keys()
    assert (first["created"], first["root"], first["permission"][0]["allow_view"]) == (5, "/models/a", True)


def test_what_vllm_makes_up_anew_in_each_answer_is_no_news() -> None:
    assert of_answer(answer(card("a", 7)), since=5.5) == of_answer(answer(card("a", 8)), since=5.5)


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"data": [{}]}', '{"data": [{"id": "x", "parent": "a"}]}'])
def test_an_answer_that_cannot_be_read_changes_nothing(body: str, caplog: pytest.LogCaptureFixture) -> None:
    assert of_answer(body, since=5.5) == {}
    assert "/v1/models cannot be read" in caplog.text

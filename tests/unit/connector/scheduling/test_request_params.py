"""What a request brings along, and how its prompt is shortened."""

from types import SimpleNamespace
from typing import Any

import pytest

from connector.scheduling.request_params import digest_of_prompt, leave_out
from tests.unit.connector.scheduling.vllm_requests import decode, prefill


def test_a_digest_tells_prompts_apart() -> None:
    """By one token of many; and a prompt of embeddings, which has no tokens, from none of its kind."""
    prompts = [[1, 2, 3], [1, 2, 4], [3, 2, 1], [1, 2], [1, 2, 3, 0], [2**31], None]
    requests = [SimpleNamespace(prompt_token_ids=tokens) for tokens in prompts]
    assert len({digest_of_prompt(each) for each in requests}) == len(prompts)
    assert digest_of_prompt(prefill(1)) == digest_of_prompt(decode(2))


def test_a_prompt_is_shortened_in_a_list_of_its_own() -> None:
    """The list of its tokens may be others' as well; vLLM's own list has views and is cut in place."""
    one = prefill()
    given, views = one.prompt_token_ids, one._all_token_ids
    leave_out(one, 1)
    assert one.prompt_token_ids == list(range(9))
    assert given == list(range(10))
    assert one._all_token_ids is views
    assert views == list(range(9))
    assert one.num_prompt_tokens == 9


def test_by_several_tokens() -> None:
    one = prefill()
    leave_out(one, 3)
    assert one.prompt_token_ids == one._all_token_ids == list(range(7))
    assert one.num_prompt_tokens == 7


def test_nothing_is_generated_behind_a_shortened_prompt() -> None:
    one = prefill()
    leave_out(one, 1)
    assert one.max_tokens == 1


def test_a_prompt_of_embeddings_is_shortened_too() -> None:
    one = prefill()
    one.prompt_token_ids, one.prompt_embeds = None, list("abcdefghij")
    leave_out(one, 1)
    assert one.prompt_embeds == list("abcdefghi")
    assert (one.prompt_token_ids, one.prompt_is_token_ids) == (None, None)
    assert (len(one._all_token_ids), one.num_prompt_tokens) == (9, 9)


def test_a_prompt_of_both_keeps_as_many_of_each() -> None:
    """And of the mask that tells them apart: vLLM copies all three into rows of the same length."""
    one = prefill()
    one.prompt_embeds, one.prompt_is_token_ids = list("abcdefghij"), [True, False] * 5
    leave_out(one, 1)
    assert one.prompt_token_ids == list(range(9))
    assert one.prompt_embeds == list("abcdefghi")
    assert one.prompt_is_token_ids == [True, False, True, False, True, False, True, False, True]


def unchanged(one: Any, tokens: int) -> bool:
    before = (one.num_prompt_tokens, list(one.prompt_token_ids), list(one._all_token_ids), one.max_tokens)
    leave_out(one, tokens)
    return before == (one.num_prompt_tokens, one.prompt_token_ids, one._all_token_ids, one.max_tokens)


@pytest.mark.parametrize(("prompt", "tokens"), [(10, 0), (1, 1), (2, 2), (2, 3)])
def test_a_prompt_stays_whole_where_no_token_would_be_left(prompt: int, tokens: int) -> None:
    assert unchanged(prefill(prompt=prompt), tokens)


def test_a_prompt_stays_whole_whose_log_probabilities_are_asked_for() -> None:
    """The other side computes it all: vLLM does not read the prefix cache then."""
    one = prefill()
    one.get_skip_reading_prefix_cache = lambda: True
    assert unchanged(one, 1)

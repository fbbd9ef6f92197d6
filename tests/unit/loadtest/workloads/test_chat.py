import logging
from itertools import pairwise

import pytest

from loadtest.settings import LoadTestSettings
from loadtest.workloads import ServedTokenizer, workload
from stack.configuration.environment import ConfigError, load
from tests.unit.loadtest.workloads.conftest import Make, of_every_kind
from tests.unit.loadtest.workloads.served import CHATML, CONTEXT_TOKENS, FORGETFUL, INST, MODEL, Target, Tokenizer

SESSIONS, TURNS = 3, 4


@pytest.fixture(params=[CHATML, INST], ids=["roles in special tokens", "roles in text"])
def target(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Target:
    return Target(tokenizer, request.param)


@of_every_kind
@pytest.mark.parametrize("lengths", [("100", "50"), ("1", "1"), ("uniform:1-200", "lognormal:40,1")])
def test_a_prompt_has_exactly_the_tokens_it_says(make: Make, target: Target, lengths: tuple[str, str]) -> None:
    chat = make("chat", input_tokens=lengths[0], output_tokens=lengths[1], chat_turns=TURNS, chat_sessions=SESSIONS)
    for index in range(3 * SESSIONS * TURNS):
        request = chat.request(index)
        assert request.path == "/v1/chat/completions"
        assert request.body["max_tokens"] == request.output_tokens
        assert len(target.tokens(request.body)) == request.input_tokens


def test_a_turn_adds_the_length_that_was_asked_for_template_included(make: Make) -> None:
    chat = make("chat", input_tokens="200", output_tokens="30", chat_turns=TURNS, chat_sessions=SESSIONS)
    lengths = [chat.request(turn * SESSIONS).input_tokens for turn in range(TURNS)]
    assert lengths == [200, 430, 660, 890]


def test_turn_by_turn_and_chat_by_chat(make: Make) -> None:
    chat = make("chat", input_tokens="200", output_tokens="30", chat_turns=TURNS, chat_sessions=SESSIONS)
    messages = [chat.request(index).body["messages"] for index in range(2 * SESSIONS * TURNS)]
    first_block = [1] * SESSIONS + [3] * SESSIONS + [5] * SESSIONS + [7] * SESSIONS
    assert [len(each) for each in messages] == first_block * 2
    for block in (0, SESSIONS * TURNS):
        for session in range(SESSIONS):
            turns = [messages[block + turn * SESSIONS + session] for turn in range(TURNS)]
            for earlier, later in pairwise(turns):
                assert later[: len(earlier)] == earlier
    openings = {each[0]["content"] for each in messages}
    assert len(openings) == 2 * SESSIONS


@of_every_kind
def test_a_prompt_begins_with_the_last_turns_prompt(make: Make, target: Target) -> None:
    chat = make("chat", input_tokens="200", output_tokens="30", chat_turns=TURNS, chat_sessions=SESSIONS)
    prompts = [target.tokens(chat.request(turn * SESSIONS).body) for turn in range(TURNS)]
    for earlier, later in pairwise(prompts):
        assert later[: len(earlier)] == earlier


def test_long_chats_are_shortened_to_what_the_context_holds(make: Make) -> None:
    chat = make(
        "chat", input_tokens="lognormal:150,2", output_tokens="uniform:1-100", chat_turns=TURNS, chat_sessions=50
    )
    ends = [chat.request((TURNS - 1) * 50 + session) for session in range(50)]
    totals = [request.input_tokens + request.output_tokens for request in ends]  # type: ignore[operator]
    assert CONTEXT_TOKENS - 2 * TURNS <= max(totals) <= CONTEXT_TOKENS


def test_chats_that_outgrow_the_context_are_refused(make: Make) -> None:
    with pytest.raises(ConfigError) as raised:
        make("chat", input_tokens="500", output_tokens="50", chat_turns=8)
    assert raised.value.lines == [
        "LOADTEST_CHAT_TURNS=8: chats grow to 4400 tokens (all turns' input and output); m holds 4096"
    ]


def test_a_template_that_treats_texts_otherwise_makes_lengths_unknown(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    target = Target(tokenizer, FORGETFUL)
    settings = load(LoadTestSettings, loadtest_workload="chat", loadtest_input_tokens="50")
    with caplog.at_level(logging.WARNING):
        chat = workload(settings, MODEL, ServedTokenizer.of(target, MODEL))
    assert [message.split(":")[0] for message in caplog.messages] == ["lengths in tokens are approximate"]
    assert chat.request(0).input_tokens is None

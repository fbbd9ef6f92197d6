"""What a step of an instance takes, and what it takes to move a prompt's KV cache.

A step's time has two parts, because that is what fits measurements (planner/step_fit.py says how well). One is what
every step takes, and something for each answer in it and for each token of KV cache that those read: memory is read.
The other is of prompts, for each token and for each pair of a token and one before it, which is attention's part: it is
computed. Where the hardware does both at once the shorter part hides behind the longer one (the roofline model,
Williams et al. 2009), and where it does not they add up.
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Seconds: of every step, a decoding sequence, a token of its context, a token of a prompt, a pair of those.

    join_s, join_token_s: of a sequence whose KV cache has come from another instance, and of a token of it, in the step
    that it joins: what arrives is in the way of what runs. overlap: how much of its shorter part a step takes no time
    for, from 0 (both add up) to 1 (the longer one alone counts). launch_s: at least, of a step of more than
    `graph_tokens` tokens: vLLM captures CUDA graphs of so many, and launches the kernels of what is larger one by one.
    """

    step_s: float = 0.0
    sequence_s: float = 0.0
    context_token_s: float = 0.0
    prompt_token_s: float = 0.0
    prompt_pair_s: float = 0.0
    join_s: float = 0.0
    join_token_s: float = 0.0
    overlap: float = 0.0
    launch_s: float = 0.0
    graph_tokens: int = 0

    def of_answers(self, sequences: int, context_tokens: int) -> float:
        """Of a step, whatever else is in it."""
        return self.step_s + self.sequence_s * sequences + self.context_token_s * context_tokens

    def of_prompts(self, tokens: int, token_pairs: float) -> float:
        return self.prompt_token_s * tokens + self.prompt_pair_s * token_pairs

    def of_step(self, answers_s: float, prompts_s: float, tokens: int) -> float:
        """Args: answers_s, prompts_s: its parts; tokens: of both."""
        both_s = answers_s + prompts_s - self.overlap * min(answers_s, prompts_s)
        return max(both_s, self.launch_s) if tokens > self.graph_tokens else both_s


def pairs(begin: int, tokens: int) -> float:
    """Of `tokens` of a prompt that follow its first `begin`."""
    return tokens * (begin + tokens / 2)


@dataclass(frozen=True, slots=True)
class TransferCosts:
    """latency_s: from the end of a piece's computation until its last layer is there, beside the time of its bytes.

    layers: a piece is sent layer by layer while it is computed, so that only the last one's bytes come after it.
    handover_s: from the last byte until the consumer may take the request into a step.
    """

    bytes_per_token: float = 0.0
    bytes_per_s: float = math.inf
    latency_s: float = 0.0
    layers: int = 1
    handover_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Constants:
    """before_s: from the client's sending until the engine has the request; after_s: from a step's end to the client.

    first_token: whose is passed on to the client; the consumer's comes when it has the KV cache, by a step of its own.
    split_s: more of before_s until a producer's has it, where a consumer is asked at the same time that has nothing to
    compute; split_beside_s: where that computes.
    beside_s: more of before_s while another instance of the machine computes.
    """

    before_s: float = 0.0
    after_s: float = 0.0
    first_token: Literal["producer", "consumer"] = "producer"
    split_s: float = 0.0
    split_beside_s: float = 0.0
    beside_s: float = 0.0

"""What answers `/tokenize` for a model: real tokenizers of three kinds, trained on the spot, behind chat templates.

The trained ones know only some of the load test's words as one token, as the tokenizers of real models do.
"""

import io
import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jinja2
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from loadtest.workloads.tokenizer import BLANK_WORDS

CONTEXT_TOKENS = 4096
MODEL = "m"

# Roles in special tokens, a system prompt if the chat has none: as SmolLM2 and Qwen have it.
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
# Roles in plain text, every question with its own BOS: as Llama 2 has it.
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
# What was said before the last question is thrown away.
FORGETFUL = "<|im_start|>user\n{{ messages[-1].content }}<|im_end|>\n<|im_start|>assistant\n"


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[str]:
        """The tokens' strings, as `convert_ids_to_tokens` shows them, without what is put before a prompt."""

    bos: tuple[str, ...]


@dataclass
class Target:
    """A client of a server that tokenizes like this; `asked` are the bodies that it got."""

    tokenizer: Tokenizer
    template: str = CHATML
    asked: list[dict[str, Any]] = field(default_factory=list)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/tokenize"
        assert body["model"] == MODEL
        self.asked.append(body)
        tokens = self.tokens(body)
        if body.get("return_token_strs"):
            return {"count": len(tokens), "max_model_len": CONTEXT_TOKENS, "token_strs": tokens}
        return {"count": len(tokens), "max_model_len": CONTEXT_TOKENS}

    def tokens(self, body: dict[str, Any]) -> list[str]:
        """Of a request's prompt or messages, as vLLM counts them."""
        if "messages" in body:
            return self.tokenizer.encode(jinja2.Template(self.template).render(messages=body["messages"]))
        before = self.tokenizer.bos if body.get("add_special_tokens", True) else ()
        return [*before, *self.tokenizer.encode(body["prompt"])]


class ByteLevelBpe:
    """As GPT-2, Llama 3 and Qwen have it: the blank before a word belongs to it, nothing is put before a prompt."""

    bos: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._tokenizer = tokenizers.Tokenizer(models.BPE())
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._tokenizer.decoder = decoders.ByteLevel()
        special = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        self._tokenizer.train_from_iterator(_corpus(), trainer)

    def encode(self, text: str) -> list[str]:
        return list(self._tokenizer.encode(text).tokens)


class SentencePieceBpe:
    """As Llama 2 and Mistral have it: a blank is thought before a text's first word, BOS is put before a prompt."""

    bos: tuple[str, ...] = ("<s>",)

    def __init__(self) -> None:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_corpus()),
            model_writer=model,
            model_type="bpe",
            vocab_size=460,
            character_coverage=1.0,
            byte_fallback=True,
            user_defined_symbols=["<|im_start|>", "<|im_end|>"],
            minloglevel=2,
        )
        self._tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

    def encode(self, text: str) -> list[str]:
        return [str(piece) for piece in self._tokenizer.encode(text, out_type=str)]


class Bytes:
    """A token for every byte, as the models of these tests have it; a chat's end is one more."""

    bos: tuple[str, ...] = ("<s>", "<s>")

    def encode(self, text: str) -> list[str]:
        return ["Ġ" if byte == 32 else chr(byte) for byte in text.encode()]


def _corpus() -> Sequence[str]:
    """Sentences of every fifth word of the load test: the rest is cut into several tokens."""
    rng = random.Random(0)
    alphabet = " ".join(string.ascii_lowercase)
    words = [word.strip() for word in BLANK_WORDS[::5]]
    return [alphabet, *(" ".join(rng.choices(words, k=20)) for _ in range(400))]


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level BPE": ByteLevelBpe,
    "SentencePiece": SentencePieceBpe,
    "bytes": Bytes,
}

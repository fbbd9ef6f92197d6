"""What is sent: each workload says of every request, by its index, what it is.

curl       the README's curl                                            curl.py
random     random words, lengths fixed or distributed                   random_words.py
chat       several turns, whose prompts grow                            chat.py
trace      a trace in Mooncake's format, with its shared prefixes       trace.py
prompts    a user's own file                                            prompts.py
"""

from collections.abc import Callable, Mapping

from loadtest.settings import LoadTestSettings, WorkloadName
from loadtest.workloads.chat import Chat
from loadtest.workloads.curl import Curl
from loadtest.workloads.prompts import Prompts
from loadtest.workloads.random_words import RandomWords
from loadtest.workloads.request import CompletionRequest, Workload
from loadtest.workloads.tokenizer import ServedTokenizer
from loadtest.workloads.trace import Trace

__all__ = ["CompletionRequest", "ServedTokenizer", "Workload", "workload"]

_WORKLOADS: Mapping[WorkloadName, Callable[[LoadTestSettings, str, ServedTokenizer], Workload]] = {
    "curl": Curl,
    "random": RandomWords,
    "chat": Chat,
    "trace": Trace,
    "prompts": Prompts,
}


def workload(settings: LoadTestSettings, model: str, tokenizer: ServedTokenizer) -> Workload:
    """The chosen one, for a test of `model`.

    Raises:
        ConfigError: a file is bad, or the lengths do not fit the model.
        RequestFailed: the target could not be asked.
    """
    return _WORKLOADS[settings.loadtest_workload](settings, model, tokenizer)

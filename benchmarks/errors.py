"""What can end a benchmark or one of its requests; each text is one line.

BenchmarkError
├── CannotStart     a server, the model or the network is not as the run needs it: nothing to report
├── OutOfTime       the time limit has passed: what was measured before is written
└── RequestFailed   one request: counted in the results, and the run goes on
"""


class BenchmarkError(RuntimeError):
    """Base of the three."""


class CannotStart(BenchmarkError):
    pass


class OutOfTime(BenchmarkError):
    pass


class RequestFailed(BenchmarkError):
    pass

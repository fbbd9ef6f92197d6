"""Runs one benchmark and writes its results: python -m benchmarks.connector latency concurrency --profile gpu

It starts everything itself, with the interpreter that runs it, and ends it again; docs/benchmarks/README.md says more.
"""

import secrets
import signal
import sys
from pathlib import Path

from benchmarks import etcd_server, program
from benchmarks.connector import page, stages
from benchmarks.connector.measurements import link
from benchmarks.connector.options import Options, parse
from benchmarks.connector.prompts import Prompts
from benchmarks.connector.run import Run
from benchmarks.connector.topology import servers
from benchmarks.connector.topology.namespaces import PRODUCER_HOST, shaped_link
from benchmarks.deadline import Deadline
from benchmarks.model_shapes import drafts
from benchmarks.ports import free_ports
from benchmarks.processes import Processes
from benchmarks.results import Results

LOOPBACK = "127.0.0.1"


def main() -> int:
    options = parse(sys.argv[1:])
    servers.forget_settings_of_the_shell()
    signal.signal(signal.SIGTERM, program.end)
    name = program.name((options.profile, *options.measurements))
    results = Results(options.out, name, _about(options), page.render)

    def measure(scratch: Path, processes: Processes) -> None:
        deadline, ports = Deadline(options.time_limit), free_ports()
        slow = shaped_link(options.link_rate) if "link" in options.measurements else None
        host = PRODUCER_HOST if slow else LOOPBACK
        etcd = etcd_server.start(etcd_server.find(options.etcd), scratch / "etcd", host, ports, processes, deadline)
        model = servers.model_folder(options, scratch)
        speculation = _speculative_config(options, model, scratch)
        blueprint = servers.blueprint(options, model, etcd, secrets.token_hex(32), speculation)
        run = Run(options, blueprint, etcd, ports, processes, Prompts(options.seed), results, deadline)
        if slow:
            link.measure(run, slow)
        else:
            stages.measure(run)

    return program.measure_and_write(results, options.logs, measure)


def _speculative_config(options: Options, model: Path, scratch: Path) -> str:
    """Empty without a draft."""
    if not options.draft or not options.shape:
        return ""
    return drafts.speculative_config(options.draft, options.draft_tokens, options.shape.config, model, scratch)


def _about(options: Options) -> dict[str, object]:
    shape = f", shape of {options.model_shape}, {options.shape_scale}" if options.model_shape else ""
    draft = f", draft: {options.draft}, {options.draft_tokens} guesses a step" if options.draft else ""
    title = f"{' and '.join(options.measurements).capitalize()} on a {options.profile.upper()}{shape}{draft}"
    return {
        **program.about("benchmarks.connector", title),
        **servers.about(options),
    }


if __name__ == "__main__":
    sys.exit(main())

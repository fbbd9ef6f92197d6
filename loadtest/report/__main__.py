"""Makes reports anew from what runs left behind; with several run folders also a comparison of them.

Example::

    python -m loadtest.report .stack/runs/2026-11-23_10-00-00          # its report.md and report.html
    python -m loadtest.report --out comparison.html RUN RUN RUN        # and goodput against rate over all of them
"""

import argparse
import sys
from pathlib import Path

from loadtest.report import comparison, write
from loadtest.runs.run_folder import NoRun, Run


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.report", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--out", type=Path, default=Path("comparison.html"), help="of several runs: the page to write")
    options = parser.parse_args(arguments)
    try:
        runs = [(folder, write(folder, Run.read(folder))) for folder in options.runs]
    except (NoRun, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if len(runs) > 1:
        options.out.write_text(comparison.page_of(runs), encoding="utf-8")
        options.out.with_suffix(".md").write_text(comparison.text_of(runs), encoding="utf-8")
        print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

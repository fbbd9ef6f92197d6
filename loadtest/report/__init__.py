"""The reports of a run: figures and pages from requests.jsonl and run.json. They may be made anew at any time."""

from pathlib import Path

from loadtest.report import page as page_report
from loadtest.report import text as text_report
from loadtest.report.contents import Contents
from loadtest.runs.run_folder import REPORT_PAGE, REPORT_TEXT, Run, analyse


def write(folder: Path, run: Run) -> Run:
    """Write run.json, report.md and report.html. Returns: `run` with its figures."""
    analysed, columns, damage = analyse(folder, run)
    analysed.write(folder)
    contents = Contents(folder, analysed, columns, damage)
    (folder / REPORT_TEXT).write_text(text_report.of_run(contents), encoding="utf-8")
    (folder / REPORT_PAGE).write_text(page_report.of_run(contents), encoding="utf-8")
    return analysed

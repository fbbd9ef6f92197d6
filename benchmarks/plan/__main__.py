"""Plans how many instances of which kind some traffic needs: python -m benchmarks.plan

Nothing is started: it simulates what `make profile` has measured. docs/planning.md says more.
"""

import sys

from benchmarks import program, results
from benchmarks.plan import page, settings_files
from benchmarks.plan.charts import charts
from benchmarks.plan.options import parse
from benchmarks.plan.paragraph import paragraph
from benchmarks.serving.report.sections import as_html, as_markdown
from planner.sizing.answer import answer
from stack.configuration import env_file


def main() -> int:
    env_file.apply_or_exit()
    options = parse(sys.argv[1:])
    try:
        found = answer(options.case, options.instances, options.changes, lambda line: print(line, flush=True))
    except ValueError as error:
        print(f"plan: {error}", file=sys.stderr)
        return 1
    options.results.mkdir(parents=True, exist_ok=True)
    about = program.about("benchmarks.plan", page.TITLE)
    lead, sections = paragraph(options, found), list(page.sections(options, found))
    files = {
        "plan.json": results.dump(page.document(options, found, about)),
        "plan.md": as_markdown(page.TITLE, lead, sections),
        "plan.html": as_html(page.TITLE, lead, sections, charts(found)),
        "plan.env": settings_files.env(options, found),
    }
    if values := settings_files.helm_values(found):
        files["values.yaml"] = values
    for name, text in files.items():
        results.replace(options.results / name, text)
    if not values:
        (options.results / "values.yaml").unlink(missing_ok=True)
    print(f"\n{lead}\n\nresults: {', '.join(str(options.results / name) for name in files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

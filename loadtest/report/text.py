"""report.md: the figures of a run as Markdown."""

from collections.abc import Sequence

from loadtest.report.contents import Contents, Table


def of_run(contents: Contents) -> str:
    parts = [f"# {contents.title}", contents.subtitle]
    parts += [f"> **{_escaped(warning)}**" for warning in contents.warnings()]
    return joined(parts, contents.tables())


def joined(parts: Sequence[str], tables: Sequence[Table]) -> str:
    return "\n\n".join((*parts, *(_section(table) for table in tables))) + "\n"


def _section(table: Table) -> str:
    alignment = ["---", *["---:"] * (len(table.header) - 1)] if len(table.header) > 2 else ["---"] * len(table.header)
    lines = [table.header, alignment, *table.rows]
    drawn = "\n".join(f"| {' | '.join(map(_escaped, cells))} |" for cells in lines)
    return "\n\n".join(filter(None, (f"## {table.title}", drawn, table.note)))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

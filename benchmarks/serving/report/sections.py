"""Parts of a page, written as Markdown and as HTML: a title, paragraphs, a table, lines of code.

A text may hold **bold**, `code` and [a link](address), in both forms.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.tables import table

_INLINE = (
    (re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"`(.+?)`"), r"<code>\1</code>"),
    (re.compile(r"\[(.+?)\]\((.+?)\)"), r'<a href="\2">\1</a>'),
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1c2330; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border: 1px solid #d4d9e2; padding: .3rem .6rem; text-align: left; font-variant-numeric: tabular-nums; }
th { background: #f2f4f8; }
pre { background: #f2f4f8; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.lead { font-size: 1.1rem; border-left: 4px solid #3b6fd4; padding-left: 1rem; }
"""


@dataclass(frozen=True)
class Section:
    title: str
    texts: Sequence[str] = ()
    header: Sequence[str] = ()
    lines: Sequence[Sequence[str]] = ()
    code: str = ""


def as_markdown(title: str, lead: str, sections: Sequence[Section]) -> str:
    parts = [f"# {title}", lead]
    for section in sections:
        parts += [f"## {section.title}", *section.texts]
        if section.lines:
            parts.append(table(section.header, section.lines))
        if section.code:
            parts.append(f"```sh\n{section.code}\n```")
    return "\n\n".join(parts) + "\n"


def as_html(title: str, lead: str, sections: Sequence[Section], charts: str) -> str:
    """One file that needs nothing else. `charts`: HTML, put behind the lead."""
    parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{_inline(lead)}</p>', charts]
    for section in sections:
        parts += [f"<h2>{html.escape(section.title)}</h2>", *(f"<p>{_inline(text)}</p>" for text in section.texts)]
        if section.lines:
            parts.append(_table(section.header, section.lines))
        if section.code:
            parts.append(f"<pre>{html.escape(section.code)}</pre>")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _inline(text: str) -> str:
    text = html.escape(text, quote=False)
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return text

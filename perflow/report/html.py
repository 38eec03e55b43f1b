"""Pieces of the page: tables, figures, badges. Plain strings of HTML, the same bytes on every run."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from matplotlib.figure import Figure

from perflow.report.drawing import style


class Html(str):
    """HTML that a notebook shows as such."""

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return "<HTML>"


class Cell(NamedTuple):
    """A table cell: HTML, how many rows it spans, and a class for its looks."""

    html: str
    rows: int = 1
    style: str = ""


def table(header: Sequence[str], rows: Sequence[Sequence[str | Cell] | str], caption: str = "", kind: str = "") -> Html:
    """A table that scrolls sideways by itself. A row that is a plain string is a heading across all columns.

    Text cells are escaped; a :class:`Cell` holds HTML.
    """
    parts = [f"<caption>{escape(caption)}</caption>"] if caption else []
    parts.append("<thead><tr>" + "".join(f'<th scope="col">{escape(name)}</th>' for name in header) + "</tr></thead>")
    parts.append("<tbody>")
    for row in rows:
        if isinstance(row, str):
            parts.append(f'<tr class="group"><th scope="rowgroup" colspan="{len(header)}">{escape(row)}</th></tr>')
        else:
            parts.append("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>")
    return Html(f'<div class="scroll"><table class="{kind}">' + "".join(parts) + "</tbody></table></div>")


def _cell(cell: str | Cell) -> str:
    if not isinstance(cell, Cell):
        return f"<td>{escape(cell)}</td>"
    span = f' rowspan="{cell.rows}"' if cell.rows > 1 else ""
    style = f' class="{cell.style}"' if cell.style else ""
    return f"<td{span}{style}>{cell.html}</td>"


def badge(text: str) -> str:
    """A verdict as a small coloured label; the text itself carries the meaning, the colour repeats it."""
    kind = {"seen": "yes", "not seen": "no", "within noise": "noise", "not tested": "none"}.get(text, "mixed")
    return f'<span class="badge {kind}">{escape(text)}</span>'


def figure(drawn: Figure, caption: str, vector: bool = True) -> Html:
    """A figure inside the page, as SVG, or as PNG where it is made of pixels; ``caption`` is its text as well."""
    buffer, kind = io.BytesIO(), "svg+xml" if vector else "png"
    with style():
        if vector:
            drawn.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        else:
            drawn.savefig(buffer, format="png", dpi=drawn.dpi, metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    width = "" if vector else f' width="{round(drawn.get_figwidth() * 96)}"'
    text = escape(caption)
    return Html(
        f'<figure><div class="scroll"><img{width} alt="{text}" src="data:image/{kind};base64,{data}"></div>'
        f"<figcaption>{text}</figcaption></figure>"
    )


def folded(title: str, content: str) -> Html:
    """Content that opens on a click."""
    return Html(f"<details><summary>{escape(title)}</summary>{content}</details>")


def pre(text: str) -> Html:
    """Text as it stands."""
    return Html(f"<pre>{escape(text)}</pre>")


def paragraph(text: str) -> Html:
    """A paragraph of plain text."""
    return Html(f"<p>{escape(text)}</p>")

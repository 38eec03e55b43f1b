"""Sections of the page as Markdown, for pages that are read where no style is."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser

_FOLDED, _BROKEN = "details", "small"
_CELLS, _BLOCKS = ("th", "td"), ("h2", "h3", "p", "caption")


def as_markdown(section: str, level: int = 2) -> str:
    """Headings, paragraphs and tables of a section; ``level`` is that of its ``h2``.

    Pictures, and what opens on a click, are left out.
    """
    parser = _Markdown(level)
    parser.feed(section)
    parser.close()
    return "\n\n".join(parser.blocks)


class _Markdown(HTMLParser):
    def __init__(self, level: int) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self._level = level
        self._folded = 0
        self._text: list[str] = []
        self._rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == _FOLDED:
            self._folded += 1
        elif tag in (*_CELLS, *_BLOCKS):
            self._text = []
        elif tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in (_BROKEN, "br"):
            self._text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == _FOLDED:
            self._folded -= 1
        if self._folded or tag == _FOLDED:
            return
        if tag in _CELLS:
            self._rows[-1].append(self._said())
        elif tag in _BLOCKS and (said := self._said()):
            self.blocks.append(f"{'#' * (self._level + int(tag[1]) - 2)} {said}" if tag in ("h2", "h3") else said)
        elif tag == "table":
            self.blocks.append(table(self._rows[0], self._rows[1:]))

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def _said(self) -> str:
        return " ".join("".join(self._text).split())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown: names to the left, numbers to the right; a row may be short, as a heading is."""
    lines = [_row(header, len(header)), "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *(_row(row, len(header)) for row in rows)])


def _row(cells: Sequence[str], width: int) -> str:
    padded = [*cells, *[""] * (width - len(cells))]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in padded) + " |"

"""The page around the report: title, contents, and the few rules of style it needs. Nothing is loaded from outside."""

from __future__ import annotations

import re
from html import escape, unescape

_CSS = """
:root {
  --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --shade: #f8fafc; --key: #eef4fb;
  --accent: #0b5a99;
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0; color: var(--ink); background: #fff;
  font: 16px/1.6 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 1180px; margin: 0 auto; padding: 2.5rem 1.1rem 5rem; }
p, li { max-width: 46rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .75rem; letter-spacing: -.01em; }
h2 {
  font-size: 1.35rem; line-height: 1.3; margin: 3rem 0 .75rem; padding-top: 1.1rem;
  border-top: 1px solid var(--line);
}
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
a { color: var(--accent); text-underline-offset: 2px; }
a.anchor-link { display: none; }
nav { margin: 1.5rem 0 0; font-size: .9rem; line-height: 2; }
nav a {
  display: inline-block; margin-right: 1.1rem; text-decoration: none;
  border-bottom: 1px solid transparent;
}
nav a:hover { border-color: currentColor; }
blockquote {
  margin: 1.25rem 0; padding: .35rem 1.1rem; max-width: 46rem; background: #fff8eb;
  border-left: 4px solid #e69f00; border-radius: 3px;
}
code, pre { font: .84em/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre {
  margin: .5rem 0 1rem; padding: .9rem 1.1rem; overflow-x: auto; background: var(--shade);
  border: 1px solid var(--line); border-radius: 6px;
}
.scroll { overflow-x: auto; margin: 1rem 0 1.25rem; }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
caption { caption-side: top; text-align: left; padding: 0 0 .45rem; font-weight: 600; white-space: nowrap; }
th, td {
  padding: .38rem .7rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line);
}
thead th {
  vertical-align: bottom; font-weight: 600; color: var(--soft); border-bottom: 2px solid #d1d5db;
  line-height: 1.2;
}
tr.group th {
  text-align: left; padding-top: 1.1rem; color: var(--accent); font-weight: 600;
  white-space: nowrap;
}
th:first-child, td.method { text-align: left; }
td.method { font-weight: 600; min-width: 8rem; border-right: 1px solid var(--line); }
td.method small { font-weight: 400; }
td.key { background: var(--key); font-weight: 600; }
td small { display: block; font-weight: 400; color: var(--soft); font-size: .82em; white-space: nowrap; }
table.results { font-size: .8rem; }
table.results td, table.results th { white-space: nowrap; padding-left: .45rem; padding-right: .45rem; }
table.results thead th { white-space: normal; }
table.results td.method { white-space: normal; position: sticky; left: 0; background: #fff; }
table.text th, table.text td, table.published th, table.published td { text-align: left; }
table.text td.method { white-space: nowrap; }
.reading {
  margin: 0 0 1.5rem; padding: .9rem 1.2rem .4rem; border: 1px solid var(--line);
  border-radius: 8px;
}
.reading h3 { margin: 0; line-height: 1.5; }
.reading p.source { margin: .15rem 0 .6rem; max-width: none; }
.reading ul { margin: .4rem 0; padding-left: 1.2rem; font-size: .94rem; }
.reading li { margin-bottom: .3rem; max-width: 62rem; }
table.published { border-left: 4px solid #d1d5db; }
p.source { margin: -.6rem 0 1.75rem; font-size: .84rem; color: var(--soft); }
svg.bar { display: block; margin-top: .2rem; }
svg.bar line { stroke: #e5e7eb; stroke-width: 1; }
svg.bar line.range { stroke: #0072b2; stroke-width: 2; }
svg.bar circle { fill: #0072b2; }
.badge {
  display: inline-block; padding: .1rem .55rem; border-radius: 99px; font-size: .8rem;
  font-weight: 600; white-space: nowrap;
}
.badge.yes { background: #d6efe5; color: #00553d; }
.badge.no { background: #fbe0d3; color: #8a3500; }
.badge.noise { background: #e5e7eb; color: #374151; }
.badge.none { background: #fff; color: var(--soft); box-shadow: inset 0 0 0 1px #d1d5db; }
.badge.mixed { background: #fdf0d0; color: #6b4700; }
.cards { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; }
.cards div {
  flex: 1 1 7.5rem; padding: .7rem 1rem; background: var(--shade); border: 1px solid var(--line);
  border-radius: 8px;
}
.cards b { display: block; font-size: 1.5rem; line-height: 1.2; }
.cards span { color: var(--soft); font-size: .85rem; }
figure { margin: 1.25rem 0 1.75rem; }
figure .scroll { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { max-width: 46rem; margin-top: .5rem; font-size: .84rem; line-height: 1.45; color: var(--soft); }
details { margin: .75rem 0 1rem; }
summary { cursor: pointer; color: var(--accent); font-size: .92rem; }
@media (max-width: 700px) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.6rem; }
  figure img { max-width: none; width: 740px; }
  table.text td.method { white-space: normal; }
  table.published td { min-width: 6.5rem; }
  caption { white-space: normal; }
}
@media print { nav, summary { display: none; } main { max-width: none; } .scroll { overflow: visible; } }
"""


def document(body: str) -> str:
    """A whole document around ``body``: its h1 becomes the title, its h2 the contents below the h1."""
    title = _text(re.search(r"<h1[^>]*>(.*?)</h1>", body, re.DOTALL))
    sections = re.findall(r'<h2[^>]*id="([^"]+)"[^>]*>(.*?)</h2>', body, re.DOTALL)
    links = "".join(f'<a href="#{name}">{escape(_plain(text))}</a>' for name, text in sections)
    body = body.replace("</h1>", f"</h1><nav>{links}</nav>", 1)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _text(found: re.Match | None) -> str:
    return _plain(found.group(1)) if found else "perflow report"


def _plain(html: str) -> str:
    """Text of a heading, without its anchor."""
    return unescape(re.sub(r"<a class=\"anchor-link\".*?</a>|<[^>]+>", "", html, flags=re.DOTALL)).strip()

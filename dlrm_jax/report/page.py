"""The looks of a report: one page of HTML, and the pieces it is made of.

Nothing is loaded from anywhere, and the page's own policy forbids it. Light
or dark as the reader's system is; fits a phone and a sheet of paper. Pieces
take HTML, except where they say text: text is escaped here.
"""

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2430;
  --soft: #647184; --line: #e3e7ec; --accent: #3b82f6; }
@media (prefers-color-scheme: dark) { :root { --page: #11151b; --card: #1a2028;
  --ink: #e4e8ee; --soft: #94a1b3; --line: #2c3541; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 3rem;
  background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
h3 { font-size: .9rem; margin: 0 0 .3rem; }
p { margin: .2rem 0; }
small, .soft { color: var(--soft); font-size: .8rem; }
.cards, .charts { display: grid; gap: .75rem; }
.cards { grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  margin-top: 1.2rem; }
.charts { grid-template-columns:
  repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; padding: .8rem 1rem; }
.card b { display: block; font-size: 1.35rem; line-height: 1.3; }
.scroll { overflow-x: auto; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .6rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
tbody tr:last-child > * { border-bottom: 0; }
th { font-weight: 600; }
thead th { color: var(--soft); font-size: .8rem; }
.sum tr:last-child > * { font-weight: 600 !important; }
tbody th { font-weight: 500; }
tr > :first-child, .sum tr > :nth-child(2), .words td { text-align: left; }
.words { table-layout: fixed; }
.words :is(th, td) { overflow-wrap: anywhere; }
:is(th, td) small { display: block; font-weight: 400; }
.features { max-width: 14rem; overflow-wrap: anywhere; }
.bar { width: 26%; min-width: 5rem; vertical-align: middle; }
.bar i { display: block; height: .6rem; border-radius: .2rem; min-width: 1px;
  background: var(--accent); }
@media print { :root { color-scheme: light; --page: #fff; --card: #fff;
    --ink: #000; --soft: #555; --line: #ccc; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .charts { grid-template-columns: 1fr 1fr; }
  .cards { grid-template-columns: repeat(6, 1fr); gap: .4rem; }
  .cards .card { padding: .5rem .6rem; } .card b { font-size: 1.05rem; }
  .card, tr { break-inside: avoid; } h2 { break-after: avoid; }
  .bar i { print-color-adjust: exact; } }
"""


def number(value: float | None, form: str) -> str:
  """A number; a dash for one that is not there.

  >>> number(0.81, '.4f'), number(float('nan'), '.4f'), number(None, '.4f')
  ('0.8100', 'undefined', '–')
  """
  if value is None:
    return '–'
  return 'undefined' if math.isnan(value) else format(value, form)


def table(head: Iterable[str], rows: Iterable[str], kind: str = '') -> str:
  """A table that scrolls sideways where it is too wide.

  Args:
    head: the column headings; none, no heading.
    rows: rows of <th> and <td> cells.
    kind: 'words' for left-aligned text, 'sum' where the last row is a total.
  """
  cells = ''.join(f'<th>{cell}</th>' for cell in head)
  heading = f'<thead><tr>{cells}</tr></thead>' if cells else ''
  return (
    f'<div class="card scroll"><table class="{kind}">{heading}<tbody>'
    + ''.join(f'<tr>{row}</tr>\n' for row in rows)
    + '</tbody></table></div>'
  )


def pairs(values: Mapping[str, Any]) -> str:
  """A table of names and values, which are text."""
  escape = html.escape
  rows = (
    f'<th>{escape(name)}</th><td>{escape(str(value))}</td>'
    for name, value in values.items()
  )
  return table([], rows, 'words')


def document(title: str, body: Iterable[str]) -> str:
  """The whole document; the title is text."""
  policy = "default-src 'none'; style-src 'unsafe-inline'"
  lines = (
    '<!doctype html>',
    '<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
    f'<title>{html.escape(title)}</title>',
    f'<style>{_STYLE}</style></head><body>',
    f'<h1>{html.escape(title)}</h1>',
    *body,
    '</body></html>',
  )
  return '\n'.join(lines) + '\n'

"""The layout of all HTML pages: the document, its tables, cards and charts.

`page.html` is the template. Nothing is loaded from a network, and the page's
own content policy forbids it. The colours follow the reader's system, light or
dark; the page fits a phone and prints well. Arguments are HTML unless the
docstring says that they are text, which is escaped here.
"""

import html
import math
import pathlib
import re
import string
from collections.abc import Iterable, Mapping
from typing import Any


def number_text(value: float | None, form: str) -> str:
  """A number as text; a dash for None.

  >>> number_text(0.81, '.4f'), number_text(math.nan, '.4f')
  ('0.8100', 'undefined')
  >>> number_text(None, '.4f')
  '–'
  """
  if value is None:
    return '–'
  return 'undefined' if math.isnan(value) else format(value, form)


def html_table(head: Iterable[str], rows: Iterable[str], kind: str = '') -> str:
  """A table that scrolls sideways where it is too wide.

  Args:
    head: the column headings; no heading where there are none.
    rows: the <th> and <td> cells of each row.
    kind: 'words' for left-aligned text, 'sum' where the last row is a total.
  """
  cells = ''.join(f'<th>{cell}</th>' for cell in head)
  heading = f'<thead><tr>{cells}</tr></thead>' if cells else ''
  return (
    f'<div class="card scroll"><table class="{kind}">{heading}<tbody>'
    + ''.join(f'<tr>{row}</tr>\n' for row in rows)
    + '</tbody></table></div>'
  )


def html_pairs(values: Mapping[str, Any]) -> str:
  """A table of names and values, which are text."""
  escape = html.escape
  rows = (
    f'<th>{escape(name)}</th><td>{escape(str(value))}</td>'
    for name, value in values.items()
  )
  return html_table([], rows, 'words')


def html_cards(cards: Iterable[tuple[str, str, str]]) -> str:
  """Cards side by side: (label, value, note) each, which are text."""
  texts = (map(html.escape, card) for card in cards)
  return '<div class="cards">{}</div>'.format(
    ''.join(
      f'<div class="card"><small>{label}</small><b>{value}</b>'
      f'<small>{note}</small></div>'
      for label, value, note in texts
    )
  )


def html_charts(charts: Mapping[str, str]) -> str:
  """Charts side by side: an <svg> by its title."""
  figures = (
    f'<div class="card"><h3>{title}</h3>{svg}</div>'
    for title, svg in charts.items()
  )
  return f'<div class="charts">{"".join(figures)}</div>'


def html_sections(sections: Mapping[str, str]) -> list[str]:
  """Sections of a page by their headings; empty ones are left out."""
  return [
    f'<h2>{heading}</h2>\n{section}'
    for heading, section in sections.items()
    if section
  ]


def with_section(text: str, heading: str, section: str, before: str) -> str:
  """A page with one more section, or with another one of the same heading.

  Args:
    text: the page.
    heading: heading of the section.
    section: the section.
    before: heading of the section that it stands before; a page without that
      one stays without the new one.
  """
  old = re.compile(f'<h2>{re.escape(heading)}</h2>.*?(?=<h2>)', re.DOTALL)
  (new,) = html_sections({heading: section})
  place = f'<h2>{before}</h2>'
  return old.sub('', text).replace(place, f'{new}\n{place}', 1)


def html_page(title: str, body: Iterable[str]) -> str:
  """The whole document.

  Args:
    title: text.
    body: pieces of HTML.
  """
  text = pathlib.Path(__file__).with_name('page.html').read_text('utf-8')
  return string.Template(text).substitute(
    title=html.escape(title), body='\n'.join(body)
  )

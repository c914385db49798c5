"""Bags as text -> lists of their elements.

A bag is a text of elements with separators, such as `a|b`, or a list as
programs print it: `[1, 4]`, `['a', "b"]`, `[a, b]`, `[1 4]`, `(1, 4)`,
`{1,4}`. Blanks around elements are dropped. An empty element is missing, but a
separator at the end adds no element: `a||b|` has three, the second missing.
"""

import re

import polars as pl

_QUOTED = r"""[bu]?(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+\")"""
_NUMBER = r'[+-]?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?'
_WORD = 'nan|NaN|-?inf|None|null|NULL|True|False|true|false'
_ITEM = rf'(?:{_QUOTED}|{_NUMBER}|{_WORD})'
_WRAPPED = re.compile(  # as NumPy 2 writes scalars
  rf'{_QUOTED}|np\.\w+\(({_ITEM})\)'
)
_ITEMS = re.compile(_ITEM)
_LITERAL = re.compile(rf'\s*(?:{_ITEM}(?:\s*,\s*|\s+|$))*+')
_OPEN = re.compile(r"""[\[{]\s*(?:[bu]?['"]|[0-9])[^\]}]*""")
_ESCAPE = re.compile(
  r'\\(?:(u[0-9a-fA-F]{4}|U00[01][0-9a-fA-F]{5}|x[0-9a-fA-F]{2})|(.))', re.S
)
_MARKS = {'n': '\n', 't': '\t', 'r': '\r', 'f': '\f', 'b': '\b'}
_BRACKETS = ('[]', '()', '{}')
_NOTHING = ('', 'None', 'null', 'NULL', 'nan', 'NaN')
_BLANKS = ' \t\r\n'
_BLANK = '[ \t\r\n]'
_SIMPLE = (  # Used by Polars, whose patterns have no `++`.
  r"""'[^'"\\]*'|"[^'"\\]*"|"""
  r'[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?'
)
_SIMPLE_LIST = (
  rf'{_BLANK}*(?:(?:{_SIMPLE})(?:{_BLANK}*,{_BLANK}*|{_BLANK}+))*'
  rf'(?:{_SIMPLE})?'
)
_SIMPLE_LISTS = '|'.join(
  rf'^\{first}{_SIMPLE_LIST}\{last}$' for first, last in _BRACKETS
)


def is_plain(x: pl.Expr, separator: str) -> pl.Expr:
  """Mask of the bags that are certainly plain elements with separators."""
  mark = re.escape(separator)
  blank = r'[ \t]'
  odd = (
    rf'[\x00\r\n]|^{blank}*[\[({{]|(?:^|{mark}){blank}|{blank}(?:{mark}|$)'
    rf'|(?:^|{mark})(?:{mark}|$)'
  )
  return ~x.str.contains(odd).fill_null(False)


def lists(bags: pl.Series, separator: str) -> pl.Series:
  """Bags of any spelling as lists; null where a bag is not valid.

  `items` defines the result; it runs, as Python code, only for unusual lists.
  """
  bags = bags.fill_null('').str.strip_chars(_BLANKS)
  separated = ~bags.str.contains(r'^[\[({]|[\])}]$')
  simple = ~separated & bags.str.contains(_SIMPLE_LISTS)
  kinds = (
    (separated, lambda x: _separated(x, separator)),
    (simple, _simple),
    (~(separated | simple), lambda x: _odd(x, separator)),
  )
  for rows, read in kinds:
    if rows.all():
      return read(bags)
  parts = pl.concat(
    [read(bags.filter(rows)).cast(pl.List(pl.String)) for rows, read in kinds]
  )
  places = pl.concat([rows.arg_true() for rows, _ in kinds])
  return parts.gather(places.arg_sort())


def _separated(bags: pl.Series, separator: str) -> pl.Series:
  """Elements between separators."""
  x = pl.col(bags.name)
  frame = bags.to_frame().select(
    x.str.split(separator).list.eval(_or_null(_BLANKS))
  )
  most = x.list.len() - x.list.last().is_null()
  return frame.select(x.list.head(most)).to_series()


def _simple(bags: pl.Series) -> pl.Series:
  """Lists of numbers, and of quoted texts without quotes and backslashes."""
  elements = pl.col(bags.name).str.extract_all(_SIMPLE)
  elements = elements.list.eval(_or_null(f'\'"{_BLANKS}'))
  return bags.to_frame().select(elements).to_series()


def _or_null(around: str) -> pl.Expr:
  """Elements without the characters `around` them; null where empty."""
  x = pl.element().str.strip_chars(around)
  return pl.when(x != '').then(x)


def _odd(bags: pl.Series, separator: str) -> pl.Series:
  elements = [items(bag, separator) for bag in bags]
  return pl.Series(bags.name, elements, pl.List(pl.String))


def items(field: str, separator: str) -> list[str | None] | None:
  """The elements of a bag; None for each missing element.

  Returns:
    None where the bag looks like a list but is not valid: a list within a
    list, a list shortened with `...`, or a list without its end.

  >>> items('a | b|', '|')
  ['a', 'b']
  >>> items("['a, b', None]", '|')
  ['a, b', None]
  >>> items('[1 4]', ',')
  ['1', '4']
  """
  field = field.strip(_BLANKS)
  inner = field[1:-1]
  if field[:1] + field[-1:] in _BRACKETS:
    inner = _WRAPPED.sub(lambda match: match[1] or match[0], inner)
    if _LITERAL.fullmatch(inner):
      return [_value(item) for item in _ITEMS.findall(inner)]
    if field[0] != '(' and not re.search(r'[\[\]{}]', inner):
      return _words(inner, separator)
  elements = _split(field, separator)
  broken = field.endswith((']', '])', '}')) and any(map(_is_cut, elements))
  if broken or _OPEN.fullmatch(field) or any(map(_is_nested, elements)):
    return None
  return [item or None for item in elements]


def _split(field: str, separator: str) -> list[str]:
  elements = [item.strip(_BLANKS) for item in field.split(separator)]
  return elements if elements[-1] else elements[:-1]


def _words(inner: str, separator: str) -> list[str | None] | None:
  """Elements of a list that are not all quoted."""
  elements = _split(inner, ',' if ',' in inner else separator)
  if '...' in (*elements, *inner.split()) or any(map(_is_cut, elements)):
    return None
  return [_value(item) for item in elements]


def _is_cut(item: str) -> bool:
  """Whether an element has only one end of a list or of a quoted text."""
  return (
    item.count('[') != item.count(']')
    or item.count('{') != item.count('}')
    or (item[:1] in ('"', "'") and (len(item) < 2 or item[-1] != item[0]))
  )


def _is_nested(item: str) -> bool:
  """Whether an element is a list that contains lists."""
  inner = item[1:-1]
  if item[:1] + item[-1:] not in ('[]', '{}') or not re.search(
    r'[\[{(]', inner
  ):
    return False
  depth = 0
  for character in inner:
    depth += (character in '[{(') - (character in ')}]')
    if depth < 0:  # The first bracket closes before the last one.
      return False
  return depth == 0


def _value(item: str) -> str | None:
  """An element of a list without its quotes; a NUL where it is not text."""
  if item in _NOTHING:
    return None
  if item[-1] not in '\'"' or not re.fullmatch(_QUOTED, item):
    return item
  text = item.lstrip('bu')[1:-1]
  try:
    if '\\' in text:
      text = _ESCAPE.sub(_character, text)
      # Two surrogates become one character.
      text = text.encode('utf-16', 'surrogatepass').decode('utf-16')
    if item[0] == 'b':
      text = text.encode('latin-1').decode()
  except ValueError:  # Not a character, or not UTF-8.
    return '\0'
  return text.strip(_BLANKS) or None


def _character(escape: re.Match[str]) -> str:
  code, mark = escape.groups()
  return chr(int(code[1:], 16)) if code else _MARKS.get(mark, mark)

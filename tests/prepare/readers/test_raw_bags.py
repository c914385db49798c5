"""Bags that are text: separated elements, or lists as programs write them."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dlrm_jax.prepare.values import raw_bags
from dlrm_jax.prepare.values.raw_bags import items, lists

numbers = st.lists(st.integers(-(2**63), 2**64 - 1))
# Blanks around elements are no part of them; no text is a missing one.
texts = st.lists(
  st.text(st.characters(exclude_categories=['Cs'])).map(str.strip).filter(bool)
)
separators = st.sampled_from([',', '|', ';', ' ', '\t', '::'])


def words(values):
  return [str(value) for value in values]


@given(values=numbers, separator=separators)
def test_numbers_are_read_from_lists_of_any_program(values, separator):
  array = np.array(values, dtype=object)
  with np.printoptions(threshold=10**6):
    printed = str(array)
  for written in (
    repr(values),
    repr(tuple(values)),
    json.dumps(values),
    json.dumps(values, separators=(',', ':')),
    json.dumps(values, indent=1),
    f'[{separator.join(words(values))}]',
    f'{{{",".join(words(values))}}}',
    '[' + ', '.join(f'np.int64({x})' for x in values) + ']',
    printed,
    f'  {values}  ',
  ):
    assert items(written, separator) == words(values), written


@given(values=texts, separator=separators)
@example(
  values=["it's", 'a "b"', '[x]', 'a, b', '\\', '{', 'é😀'], separator=','
)
def test_texts_are_read_from_lists_of_any_program(values, separator):
  for written in (
    repr(values),
    json.dumps(values),
    json.dumps(values, ensure_ascii=False),
    repr([x.encode() for x in values]),
    '[' + ' '.join(map(repr, values)) + ']',
    '[' + ', '.join(f'np.str_({x!r})' for x in values) + ']',
  ):
    assert items(written, separator) == values, written


word = st.from_regex('[a-z][a-z0-9 .-]*[a-z0-9]', fullmatch=True).filter(
  lambda x: x not in ('null', 'nan') and '...' not in x
)


@given(values=st.lists(word), separator=st.sampled_from([',', '|', ';']))
def test_separated_and_unquoted_elements_are_read(values, separator):
  written = separator.join(values)
  assert items(written, separator) == values
  assert items(f'{separator} '.join(values), separator) == values
  assert items(f'[{", ".join(values)}]', separator) == values
  if values:
    assert items(written + separator, separator) == values


@pytest.mark.parametrize(
  ('field', 'separator', 'wanted'),
  [
    ('', '|', []),
    (' ', '|', []),
    ('[]', '|', []),
    ('[[a, b], c]', '|', None),
    ("[['a'], ['b']]", '|', None),
    ('[a][b]', '|', ['[a][b]']),
    ('[a (x)]', '|', ['a (x)']),
    ('[ ]', '|', []),
    ('()', '|', []),
    ('{}', '|', []),
    ('a||b', '|', ['a', None, 'b']),
    ('|a', '|', [None, 'a']),
    ('[None, 1]', '|', [None, '1']),
    ('["a", null]', '|', ['a', None]),
    ('[nan, 1.0]', '|', [None, '1.0']),
    ('["", "a"]', '|', [None, 'a']),
    ('(1,)', '|', ['1']),
    ('[abc|x', '|', ['[abc', 'x']),
    ('[abc', '|', ['[abc']),
    ('abc]', '|', None),
    ('[abc]|[def]', '|', ['[abc]', '[def]']),
    ('(not set)', '|', ['(not set)']),
    ('[New York]', '|', ['New York']),
    ("[u'Action', u'Indie']", ',', ['Action', 'Indie']),
    ('[[1, 2], [3]]', ',', None),
    ('[1, 2], [3]', ',', None),
    ('[0 1 ... 998 999]', ',', None),
    ('[1, 4', ',', None),
    ('["a", "b', ',', None),
    ('array([1, 4])', ',', None),
    (r'["\ud83d\ude00", "\ud83d"]', ',', ['😀', '\0']),
    (r"[b'\xff']", ',', ['\0']),
  ],
)
def test_a_bag_is_what_it_looks_like_or_refused(field, separator, wanted):
  assert items(field, separator) == wanted


PARTS = r"""[ ] ( ) { } , | :: ' " \ ... a None nan 1 -2.5 .5 1e3 é 'a' "b" '' u
np.int64(3) 'np.str_(3)'"""
parts = st.sampled_from([*PARTS.split(), ' ', ', ', '\t', 'a b'])
bag = st.lists(parts).map(''.join)
bag |= st.builds('{}{}{}'.format, st.just('['), bag, st.just(']')) | st.none()


@given(bags=st.lists(bag), separator=separators)
@example(
  bags=['[1, 4]', 'a|', "['it', 'a, b',]", '(1,)', '[1 4]'], separator='|'
)
@example(bags=['a::', 'a:::', ' '], separator='::')
def test_a_column_of_bags_is_read_as_each_of_them(bags, separator):
  found = lists(pl.Series('x', bags, pl.String), separator)
  assert found.to_list() == [items(bag or '', separator) for bag in bags]


def test_python_reads_no_list_that_is_written_plainly(monkeypatch):
  odd = []
  monkeypatch.setattr(
    raw_bags, 'items', lambda *bag: odd.append(bag) or items(*bag)
  )
  bags = ['1|4|', ' a | b', '[1, 4]', '["a", \'b\']', '(1, 4)', '[1 4]', None]
  lists(pl.Series('x', [*bags, '[None, 4]']), '|')
  assert odd == [('[None, 4]', '|')]

"""Encodings that are impossible are refused, in one line."""

import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from dlrm_jax.errors import InputError
from tests.build.test_build_encodings import PAIR, buckets_of_pair, build, write

IMPOSSIBLE = {
  'not coprime': (
    {'encoding': 'chinese_remainder', 'buckets': (100, 62)},
    ['feature some', 'chinese_remainder', '(100, 62)', 'common divisor 2'],
  ),
  'product too small': (
    {'encoding': 'quotient_remainder', 'buckets': (9, 9)},
    ['feature some', '(9, 9)', '81', '1,000 ids'],
  ),
  'two unknown buckets': (
    {'encoding': 'quotient_remainder', 'buckets': (0, 0)},
    ['feature some', '(0, 0)', 'one of them may be 0'],
  ),
  'one bucket': (
    {'encoding': 'quotient_remainder', 'buckets': (7,)},
    ['feature some', '(7,)', '2 or more partitions'],
  ),
  'negative buckets': (
    {'encoding': 'quotient_remainder', 'buckets': (-7, 0)},
    ['feature some', '(-7, 0)', 'whole numbers'],
  ),
  'budget too small': (
    {'encoding': 'quotient_remainder', 'rows': 3},
    ['feature some', '48 parameters is too small', 'rows=64 or more'],
  ),
  'budget too small for a tensor train': (
    {'encoding': 'tensor_train', 'rows': 3},
    ['feature some', 'tensor_train', '48 parameters is too small'],
  ),
  'buckets of hashes': (
    {'encoding': 'hashed', 'buckets': (7, 0)},
    ['tables.buckets', 'hashed', 'quotient_remainder'],
  ),
  'more parts than buckets': (
    {'encoding': 'quotient_remainder', 'buckets': (100, 0), 'parts': 3},
    ['feature some', '(100, 0)', 'parts is 3'],
  ),
  'too many parts': (
    {'encoding': 'quotient_remainder', 'parts': 99},
    ['tables.parts', 'feature some', '99', '2 to 16'],
  ),
  'buckets that are no list': (
    {
      'encoding': 'quotient_remainder',
      'features': ConfigDict({'some': {'buckets': 5}}),
    },
    ['tables.buckets', 'feature some', '5', '(1000, 0)'],
  ),
  'mixed dimensions of one size': (
    {
      'encoding': 'mixed_dims',
      'features': ConfigDict({'many': {'encoding': 'plain'}}),
    },
    ['mixed_dims', '1,000', 'larger ones'],
  ),
  'no budget for mixed dimensions': (
    {'encoding': 'mixed_dims', 'rows': 3},
    ['mixed_dims', '96 parameters is too small', 'rows'],
  ),
  'width that can not be cut': (
    {'encoding': 'quotient_remainder', 'combine': 'concat', 'parts': 3},
    ['feature some', 'width 16', '3 equal parts'],
  ),
  'width that can not be cut for robe': (
    {'encoding': 'robe', 'parts': 3},
    ['robe', 'width 16', '3 equal parts; change config.tables.parts'],
  ),
  'a path of hashes': (
    {'encoding': 'hashed', 'combine': 'path'},
    ['feature some', 'path', 'hashed', 'mult, add or concat'],
  ),
  'a path of sums': (
    {
      'encoding': 'quotient_remainder',
      'combine': 'path',
      'multi_hot': 'pool_then_combine',
    },
    ['tables.multi_hot', 'feature some', "'combine_then_pool'", 'add'],
  ),
  'unknown encoding': (
    {'encoding': 'qr'},
    ['tables.encoding', "'qr'", 'quotient_remainder'],
  ),
  'unknown combination': (
    {'encoding': 'hashed', 'combine': 'sum'},
    ['tables.combine', "'sum'", 'add'],
  ),
  'unknown pooling of bags': (
    {'encoding': 'quotient_remainder', 'multi_hot': 'both'},
    ['tables.multi_hot', 'feature some', "'both'", 'pool_then_combine'],
  ),
  'less than no compression': (
    {'encoding': 'hashed', 'compression': 0.5},
    ['tables.compression', 'feature some', '0.5', '1 or more'],
  ),
  'endless compression': (
    {'encoding': 'hashed', 'compression': math.inf},
    ['tables.compression', 'feature some', 'inf'],
  ),
  'one partition': (
    {'encoding': 'quotient_remainder', 'parts': 1},
    ['tables.parts', 'feature some', '1', '2 to 16'],
  ),
  'negative power': (
    {'encoding': 'mixed_dims', 'alpha': -0.5},
    ['tables.alpha is -0.5;', 'from 0'],
  ),
  'two powers': (
    {
      'encoding': 'mixed_dims',
      'features': ConfigDict({'some': {'alpha': 0.7}}),
    },
    ['tables.alpha', '0.7', 'one number'],
  ),
  'robe in different parts': (
    {'encoding': 'robe', 'features': ConfigDict({'some': {'parts': 4}})},
    ['tables.parts', '[2, 4]', 'one number'],
  ),
  'no rank': (
    {'encoding': 'tensor_train', 'rank': 0},
    ['tables.rank', 'feature some', '0', '1'],
  ),
  'no hidden layer': (
    {'encoding': 'quotient_remainder', 'combine': 'path', 'hidden': 0},
    ['tables.hidden', '0', 'at least 1'],
  ),
  'negative threshold': (
    {'encoding': 'hashed', 'threshold': -1},
    ['tables.threshold', 'feature few', '-1'],
  ),
  'a shared table of two encodings': (
    {
      'features': ConfigDict(
        {
          'some': {'table': 't', 'encoding': 'hashed'},
          'many': {'table': 't'},
        }
      )
    },
    ['some', 'many', 'table t', 'encoding', "'hashed'", "'plain'", 'same'],
  ),
  'no partitions': (
    {'encoding': 'partitions'},
    ['feature some', 'partitions', 'MODULE:FUNCTION'],
  ),
  'no such module': (
    {'encoding': 'partitions', 'partitions': 'no_such:pair'},
    ['feature some', 'no_such', 'MODULE:FUNCTION'],
  ),
  'no such function': (
    {'encoding': 'partitions', 'partitions': f'{PAIR}s'},
    ['feature some', 'pairs', 'MODULE:FUNCTION'],
  ),
  'a function that raises': (
    {'encoding': 'partitions', 'partitions': PAIR.replace('pair', 'broken')},
    ['feature some', 'broken', 'tuple of bucket numbers'],
  ),
  'a function that is not complementary': (
    {'encoding': 'partitions', 'partitions': PAIR.replace('pair', 'alike')},
    ['feature some', 'not complementary', 'ids 0 and 100', '(0, 0)'],
  ),
  'a function of one array': (
    {'encoding': 'partitions', 'partitions': PAIR.replace('pair', 'single')},
    ['feature some', 'not a tuple', 'return (a,)'],
  ),
  'buckets with gaps': (
    {'encoding': 'partitions', 'partitions': PAIR.replace('pair', 'sparse')},
    ['feature some', '900,000,999', '1,000 ids', '0, 1, 2'],
  ),
  'a part with the name of a table': (
    {
      'encoding': 'quotient_remainder',
      'features': ConfigDict({'few': {'table': 'many.1'}}),
    },
    ['features: few and many', 'table many.1', "{'table': 'other'}"],
  ),
  'a table with the name of the array': (
    {'encoding': 'robe', 'features': ConfigDict({'few': {'table': 'robe'}})},
    ['few', 'some', 'table robe', "{'table': 'other'}"],
  ),
  'no such file': (
    {'encoding': 'partitions', 'partitions': 'no/such/file.csv'},
    ['feature some', 'no/such/file.csv'],
  ),
}


def refused(given, words):
  with pytest.raises(InputError) as caught:
    build(**given)
  (message,) = str(caught.value).splitlines()
  for word in words:
    assert word in message, message


@pytest.mark.parametrize('name', IMPOSSIBLE)
def test_what_is_impossible_is_refused_in_one_line(name):
  refused(*IMPOSSIBLE[name])


@pytest.mark.parametrize('suffix', ['csv', 'npy'])
@pytest.mark.parametrize(
  ('found', 'words'),
  [
    (buckets_of_pair(999), ['(999, 2)', '[1000, k]', 'of the 1,000 ids']),
    (np.arange(5000)[:, None] // 2, ['not complementary', 'ids 0 and 1']),
    (buckets_of_pair(5000) + 0.5, ['float64', 'integers']),
  ],
)
def test_files_that_give_no_partitions_are_refused(
  tmp_path, suffix, found, words
):
  path = write(tmp_path / f'given.{suffix}', found)
  given = {'encoding': 'partitions', 'partitions': str(path)}
  refused(given, ['feature some', *words])


def test_a_file_of_words_is_refused_by_line(tmp_path):
  path = tmp_path / 'given.csv'
  given = {'encoding': 'partitions', 'partitions': str(path)}
  path.write_text('town,street\n' + '1,2\n' * 5000)
  refused(given, ['given.csv', 'line 1', "'town'", 'no header'])
  path.write_text('1,2\n' * 5000 + '1,many\n')
  refused(given, ['given.csv', 'line 5001', "'many'", 'whole numbers'])
  path = tmp_path / 'given.npy'
  np.save(path, np.array([[1, None]], object))
  given = {'encoding': 'partitions', 'partitions': str(path)}
  refused(given, ['given.npy', 'array of integers', 'numpy.save'])


@pytest.mark.parametrize('suffix', ['csv', 'npy'])
def test_an_empty_file_is_refused(tmp_path, suffix):
  path = tmp_path / f'given.{suffix}'
  path.write_bytes(b'')
  given = {'encoding': 'partitions', 'partitions': str(path)}
  refused(given, ['feature some', f'given.{suffix}'])

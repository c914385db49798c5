"""Parquet columns of types that only pyarrow writes."""

import polars as pl
import pytest

from dlrm_jax.errors import InputError
from tests.prepare.readers.parquet_log import read


def test_what_pyarrow_calls_text_is_text(tmp_path):
  pa = pytest.importorskip('pyarrow')
  parquet = pytest.importorskip('pyarrow.parquet')
  values = pa.array(['b', None, 'a'])
  kinds = {
    'dictionary': values.dictionary_encode(),
    'large': values.cast(pa.large_string()),
    'view': values.cast(pa.string_view()),
    'binary': values.cast(pa.binary()),
  }
  parquet.write_table(pa.table(kinds | {'y': [1, 0, 1]}), tmp_path / 'a.pq')
  frame, _ = read(tmp_path / 'a.pq', sparse=list(kinds))
  for name in kinds:
    assert frame[name].to_list() == ['b', None, 'a'], name


@pytest.mark.skipif(
  not hasattr(pl, 'BaseExtension'), reason='this Polars reads no extensions'
)
def test_other_types_of_pyarrow_are_what_they_are_stored_as_or_refused(
  tmp_path, capfd
):
  pa = pytest.importorskip('pyarrow')
  parquet = pytest.importorskip('pyarrow.parquet')
  json = pa.ExtensionArray.from_storage(
    pa.json_(pa.string()), pa.array(['a', 'b'])
  )
  short = pa.ExtensionArray.from_storage(
    pa.bool8(), pa.array([1, 0], pa.int8())
  )
  columns = {
    'y': [1, 0],
    'json': json,
    'short': short,
    'codes': pa.array([5, 7]).dictionary_encode(),
    'map': pa.array([[('a', 1)], []], pa.map_(pa.string(), pa.int64())),
  }
  parquet.write_table(pa.table(columns), tmp_path / 'a.pq')
  kinds = {'json': 'string', 'short': 'integer', 'codes': 'integer'}
  frame, _ = read(tmp_path / 'a.pq', sparse=kinds)
  assert frame.rows() == [(1, 'a', 1, 5), (0, 'b', 0, 7)]
  with pytest.raises(
    InputError, match=r"a\.pq: column 'map' is .*expected list"
  ):
    read(tmp_path / 'a.pq', sparse=[], bags=['map'])
  views = pa.array([[1, 2], []], pa.list_view(pa.int64()))
  parquet.write_table(pa.table({'y': [1, 0], 'u': views}), tmp_path / 'b.pq')
  with pytest.raises(InputError, match=r'b\.pq: Polars does not know a type'):
    read(tmp_path / 'b.pq', sparse=[], bags=['u'])
  capfd.readouterr()  # the trace of Polars

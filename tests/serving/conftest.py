"""Servers that tests share."""

import pytest

from tests import scored
from tests.serving import served


@pytest.fixture(scope='session')
def server(export, weighted, two_labels):
  """A server of an export, a run with weights, and one of two labels."""
  folders = {'ctr': export, 'two': two_labels.folder, 'bags': weighted.folder}
  with served.serving(folders) as running:
    yield running


@pytest.fixture(scope='session')
def small(export):
  """A server of small batches, with little room."""
  with served.serving({'ctr': export}, served.SMALL) as running:
    yield running


@pytest.fixture(scope='session')
def inputs(plain):
  """What the network takes of the rows of a split."""
  return scored.blocks_of(plain.data, 'test')


@pytest.fixture(scope='session')
def want(plain, inputs):
  """Their probabilities."""
  return plain.probabilities(inputs)

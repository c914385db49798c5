"""What tests of exports share."""

import shutil

import pytest


@pytest.fixture
def copy(export, tmp_path):
  """A copy of an export, to be changed."""
  return shutil.copytree(export, tmp_path / 'copy')

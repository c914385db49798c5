"""Checksums are the same wherever they are made, and see what changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax import sharding
from dlrm_jax.training import checksums


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
  monkeypatch.setattr(checksums, 'PIECE', 16)
  monkeypatch.setattr(checksums, 'SMALL', 0)


def drawn(shape, dtype):
  return jax.random.normal(jax.random.key(0), shape).astype(dtype)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.int8])
@pytest.mark.parametrize('shape', [(72, 7), (88,), (8, 3, 5)])
@pytest.mark.parametrize('spec', [sharding.SPLIT, sharding.COPIED])
@pytest.mark.parametrize('devices', [1, 4])
def test_blocks_have_the_sums_that_the_host_finds(dtype, shape, spec, devices):
  values = drawn(shape, dtype)
  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    x = jax.device_put(values, sharding.sharding_of(spec))
    sums = checksums.sums_of(x)
    blocks = sums.blocks(len(values))
    assert len(blocks) > 1
    for (start, end), want in zip(blocks, sums.sums, strict=True):
      for many in (False, True):
        rows = np.asarray(values[start:end])
        assert checksums.sum_of(rows, start, many) == want


def test_a_number_has_one(monkeypatch):
  monkeypatch.setattr(checksums, 'SMALL', 2**20)
  sums = checksums.sums_of(jnp.int32(7))
  assert sums.sums == (checksums.sum_of(np.int32(7)[None], 0, False),)


@pytest.mark.parametrize(
  'change',
  [
    lambda x: x[::-1].copy(),
    lambda x: np.roll(x, 1, 1),
    lambda x: np.where(np.arange(8) < 2, -x, x),
    lambda x: np.nextafter(x, np.float32(9)),
  ],
  ids=['rows swapped', 'columns moved', 'two signs a row', 'last bits'],
)
def test_they_see_what_moves_and_what_changes(change):
  x = np.asarray(drawn((64, 8), jnp.float32))
  assert checksums.sum_of(change(x), 0, False) != checksums.sum_of(x, 0, False)


def test_they_see_every_single_bit():
  x = np.asarray(drawn((3, 2), jnp.float32))
  sums = {checksums.sum_of(x, 0, False)}
  for bit in range(8 * x.nbytes):
    changed = bytearray(x.tobytes())
    changed[bit // 8] ^= 1 << bit % 8
    values = np.frombuffer(changed, x.dtype).reshape(x.shape)
    sums.add(checksums.sum_of(values, 0, False))
  assert len(sums) == 1 + 8 * x.nbytes

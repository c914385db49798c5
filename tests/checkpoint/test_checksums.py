"""Checksums are the same wherever they are made, and see what changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax import sharding
from dlrm_jax.checkpoint import checksums


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
    sums = checksums.sums_of({'x': x})['x']
  blocks = sums.blocks(len(values))
  assert len(blocks) > 1
  assert sums.sums == tuple(
    checksums.sum_of(np.asarray(values[start:end]), start)
    for start, end in blocks
  )


@pytest.mark.parametrize('small', [0, 2**20])
@pytest.mark.parametrize('devices', [1, 2, 8])
@pytest.mark.parametrize('block', [1, 3, 10, 48])
def test_blocks_may_lie_across_devices(small, devices, block, monkeypatch):
  monkeypatch.setattr(checksums, 'SMALL', small)
  values = drawn((48, 4), jnp.float32)
  cuts = checksums.Sums(48, block, ()).blocks(48)
  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    x = jax.device_put(values, sharding.sharding_of(sharding.SPLIT))
    local = checksums.LocalSums(x, cuts)
  assert local.numbers() == {
    k: checksums.sum_of(np.asarray(values[start:end]), start)
    for k, (start, end) in enumerate(cuts)
  }
  assert not any(local.absent(k) for k in range(len(cuts)))


def test_blocks_are_as_large_on_many_devices(monkeypatch):
  monkeypatch.setattr(checksums, 'PIECE', 2**10)
  values = drawn((1024, 8), jnp.float32)
  counts = []
  for devices in (1, 2, 8):
    with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
      x = jax.device_put(values, sharding.sharding_of(sharding.SPLIT))
      counts.append(len(checksums.sums_of({'x': x})['x'].sums))
  assert counts == [32, 32, 32]


def test_a_number_has_one(monkeypatch):
  monkeypatch.setattr(checksums, 'SMALL', 4)
  sums = checksums.sums_of({'x': jnp.int32(7)})['x']
  assert sums.sums == (checksums.sum_of(np.int32(7), 0),)


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
  assert checksums.sum_of(change(x), 0) != checksums.sum_of(x, 0)


def test_they_see_every_single_bit():
  x = np.asarray(drawn((3, 2), jnp.float32))
  sums = {checksums.sum_of(x, 0)}
  for bit in range(8 * x.nbytes):
    changed = bytearray(x.tobytes())
    changed[bit // 8] ^= 1 << bit % 8
    values = np.frombuffer(changed, x.dtype).reshape(x.shape)
    sums.add(checksums.sum_of(values, 0))
  assert len(sums) == 1 + 8 * x.nbytes

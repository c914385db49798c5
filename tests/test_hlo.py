"""Bytes that compiled programs exchange, against those that were written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from dlrm_jax.hlo import collectives, exchanged

N = 8

# As libtpu writes an all-gather that overlaps with a product: one exchange.
OVERLAPPED = """HloModule jit_f, is_scheduled=true, num_partitions=8

%start_comp (p.1: f32[512,128]) -> (f32[512,128], f32[4096,128], u32[]) {
  %p.1 = f32[512,128]{1,0:T(8,128)S(1)} parameter(0)
  %all-gather.6 = f32[4096,128]{1,0:T(8,128)} all-gather(%p.1), channel_id=2, \
replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  ROOT %custom-call.1 = (f32[512,128]{1,0:T(8,128)S(1)}, f32[4096,128]{1,0}, \
u32[]) custom-call(%all-gather.6), custom_call_target="AsyncCollectiveStart"
}

%go_on_comp (p.2: f32[512,128]) -> (f32[512,256], f32[4096,128]) {
  %p.2 = f32[512,128]{1,0:T(8,128)S(1)} parameter(0)
  %all-gather.8 = f32[4096,128]{1,0:T(8,128)} all-gather(%p.2), channel_id=2, \
replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
}

ENTRY %main (p.3: f32[512,128]) -> f32[4096,128] {
  %async-start = (f32[512,128]{1,0}, f32[4096,128]{1,0}, u32[]) \
fusion(%p.3), kind=kCustom, calls=%start_comp
  %fusion.4 = (f32[512,256]{1,0}, f32[4096,128]{1,0}) fusion(%p.3), \
kind=kCustom, calls=%go_on_comp
  %collective-permute-start = (f32[8,512]{1,0}, f32[8,512]{1,0}, u32[], u32[]) \
collective-permute-start(%p.3), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %collective-permute-done = f32[8,512]{1,0} \
collective-permute-done(%collective-permute-start)
  ROOT %sum = (f32[64]{0}, f32[]) all-reduce(%a, /*index=1*/%b), channel_id=5, \
replica_groups=mesh['axis_0'=8] {'axis_0'}, to_apply=%add
}
"""


def compile_for(devices, function, *shapes):
  mesh = Mesh(np.array(jax.devices()[:devices]), ('d',))
  spec = PartitionSpec('d')
  mapped = jax.shard_map(
    function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )
  arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  return jax.jit(mapped).lower(*arguments).compile().as_text()


def swap(x):
  return lax.all_to_all(x, 'd', 0, 0, tiled=True)


PART = 16 * 4 * 4  # bytes of f32[16, 4]
EXPECTED = {
  'all-to-all': (swap, PART // N * (N - 1)),
  'all-reduce': (lambda x: lax.psum(x, 'd'), 2 * PART // N * (N - 1)),
  'all-gather': (lambda x: lax.all_gather(x, 'd'), PART * (N - 1)),
  'reduce-scatter': (
    lambda x: lax.psum_scatter(x, 'd', tiled=True),
    PART // N * (N - 1),
  ),
  'collective-permute': (
    lambda x: lax.ppermute(x, 'd', [(i, (i + 1) % N) for i in range(N)]),
    PART,
  ),
}


@pytest.mark.parametrize('kind', EXPECTED)
def test_bytes_of_each_kind(kind):
  function, expected = EXPECTED[kind]
  (found,) = collectives(compile_for(N, function, (16 * N, 4)))
  assert (found.kind, found.bytes, found.count) == (kind, expected, 1)
  assert (found.group, found.overflow) == (N, False)


def test_a_quarter_of_the_devices_keeps_more_for_itself():
  (found,) = collectives(compile_for(2, swap, (32, 4)))
  assert (found.group, found.bytes) == (2, PART // 2)


def test_equal_exchanges_are_counted():
  text = compile_for(N, lambda x: swap(jnp.sin(swap(x))), (16 * N, 4))
  (found,) = collectives(text)
  assert found.count == 2
  assert exchanged([found]) == 2 * found.bytes


def test_overflow_is_apart():
  def rounds(x):
    first = swap(x)
    with jax.named_scope('overflow'):
      return lax.while_loop(
        lambda x: lax.pmax(x[0, 0], 'd') > 0, lambda x: swap(x - 1), first
      )

  found = collectives(compile_for(N, rounds, (16 * N, 4)))
  usual = [c for c in found if not c.overflow]
  assert [c.kind for c in usual] == ['all-to-all']
  assert {c.kind for c in found if c.overflow} == {'all-to-all', 'all-reduce'}
  assert exchanged(found) == usual[0].bytes


def test_a_program_without_exchange_has_none():
  assert collectives(compile_for(N, jnp.sin, (16 * N, 4))) == []


def test_exchanges_that_overlap_with_work_count_once():
  found = {c.kind: c for c in collectives(OVERLAPPED)}
  assert len(found) == 3
  assert found['all-gather'].count == 1
  assert found['all-gather'].bytes == 4096 * 128 * 4 * 7 // 8
  assert found['collective-permute'].bytes == 8 * 512 * 4
  assert found['all-reduce'].bytes == 2 * 65 * 4 * 7 // 8
  assert found['all-reduce'].shape == 'f32[64], f32[]'

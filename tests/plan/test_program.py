"""Bytes and products of programs that are written here, line by line."""

import pytest

from dlrm_jax.plan.products import products
from dlrm_jax.plan.program import Program
from dlrm_jax.plan.traffic import memory_bytes

ROW, TABLE = 32, 32_000
"""Bytes of f32[1,8] and of f32[1000,8]."""
T, N, U = 'f32[1000,8]{1,0}', 's32[4]{0}', 'f32[4,8]{1,0}'
ONE = 'f32[]'


def module(entry, **others):
  """The text of a module: `a`: a table, `i`: ids, `u`: rows, then `entry`."""
  lines = ['HloModule m']
  for name, body in others.items():
    lines += [f'%{name} () -> {ONE} {{', *(f'  {x}' for x in body), '}']
  lines += [f'ENTRY %main () -> {ONE} {{']
  for at, (name, shape) in enumerate({'a': T, 'i': N, 'u': U}.items()):
    lines.append(f'  %{name} = {shape} parameter({at})')
  return '\n'.join([*lines, *(f'  {x}' for x in entry), '}'])


def fused(*body):
  """A fusion of the table, the ids and the rows."""
  parameters = [
    f'%{name} = {shape} parameter({at})'
    for at, (name, shape) in enumerate({'t': T, 'n': N, 'r': U}.items())
  ]
  (shape,) = [x.split(' = ')[1] for x in body if x.startswith('ROOT')]
  result = (
    shape.partition(') ')[0] + ')' if shape[0] == '(' else shape.split()[0]
  )
  call = f'ROOT %f = {result} fusion(%a, %i, %u), kind=kLoop, calls=%inner'
  return module([call], inner=[*parameters, *body])


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    # Rows are read of a table that is gathered or sliced from.
    (fused(f'ROOT %g = {U} gather(%t, %n)'), (4 + 4) * ROW + 16 + 4 * ROW),
    (
      fused(f'ROOT %s = {U} slice(%t), slice={{[0:4], [0:8]}}'),
      (4 + 4) * ROW + 16 + 4 * ROW,
    ),
    # A scatter reads and writes rows, an update of a slice only writes.
    (
      fused(f'ROOT %s = {T} scatter(%t, %n, %r), to_apply=%add'),
      (4 + 4) * ROW + 16 + 4 * ROW,
    ),
    (
      fused(f'ROOT %s = {T} dynamic-update-slice(%t, %r, %n, %n)'),
      4 * ROW + 16 + 4 * ROW,
    ),
    # Into a value that is made here all is written.
    (
      fused(
        f'%z = {ONE} constant(0)',
        f'%b = {T} broadcast(%z)',
        f'ROOT %s = {T} scatter(%b, %n, %r), to_apply=%add',
      ),
      TABLE + 16 + 4 * ROW + TABLE,
    ),
    # Of several results each.
    (
      fused(
        f'%d = {T} dynamic-update-slice(%t, %r, %n, %n)',
        f'%e = {U} exponential(%r)',
        f'ROOT %two = ({T}, {U}) tuple(%d, %e)',
      ),
      4 * ROW + 4 * ROW + 16 + 4 * ROW,
    ),
  ],
  ids=['gather', 'slice', 'scatter', 'update', 'fresh', 'two results'],
)
def test_of_a_fusion_the_rows_count(text, expected):
  assert memory_bytes(Program(text)) == expected


@pytest.mark.parametrize(
  ('entry', 'expected'),
  [
    ([f'ROOT %c = {T} copy(%a)'], 2 * TABLE),
    ([f'%g = {U} gather(%a, %i)'], 2 * 4 * ROW + 16),
    ([f'%s = {T} scatter(%a, %i, %u), to_apply=%add'], 2 * 4 * ROW + 16 + 128),
    ([f'%s = {T} dynamic-update-slice(%a, %u, %i)'], 4 * ROW + 128 + 16),
    ([f'%b = {T} custom-call(), custom_call_target="AllocateBuffer"'], 0),
    # What is in the on-chip memory costs nothing.
    (
      [
        f'%c = {T[:-1]}:S(1)}} copy(%a)',
        f'%g = {U[:-1]}:S(1)}} gather(%c, %i)',
        f'%k = {U} copy(%g)',
      ],
      TABLE + 16 + 4 * ROW,
    ),
    (
      [
        f'%s = (({T}), {U[:-1]}:S(1)}}, s32[]) slice-start(%a)',
        f'%d = {U[:-1]}:S(1)}} slice-done(%s)',
      ],
      4 * ROW,
    ),
    (
      [
        f'%s = ({T[:-1]}:S(1)}}, {T}, u32[]) copy-start(%a)',
        f'%d = {T[:-1]}:S(1)}} copy-done(%s)',
      ],
      TABLE + 4,
    ),
  ],
)
def test_an_operation_reads_its_operands_and_writes_its_result(entry, expected):
  assert memory_bytes(Program(module(entry))) == expected


LOOPED = [
  f'%state = (s32[], {U}) parameter(0)',
  '%at = s32[] get-tuple-element(%state), index=0',
  f'%x = {U} get-tuple-element(%state), index=1',
  '%by = s32[] constant(2)',
  '%next = s32[] add(%at, %by)',
  f'%y = {U} copy(%x)',
  f'ROOT %both = (s32[], {U}) tuple(%next, %y)',
]
CONDITION = [
  f'%state = (s32[], {U}) parameter(0)',
  '%at = s32[] get-tuple-element(%state), index=0',
  '%limit = s32[] constant(9)',
  'ROOT %go = pred[] compare(%at, %limit), direction=LT',
]


def loop(condition=CONDITION, more=''):
  return module(
    [
      '%zero = s32[] constant(0)',
      f'%first = (s32[], {U}) tuple(%zero, %u)',
      f'ROOT %w = (s32[], {U}) while(%first), condition=%goes, '
      f'body=%step{more}',
    ],
    goes=condition,
    step=LOOPED,
  )


ONCE = 2 * 4 * ROW + 3 * 4
"""Bytes of the body: it copies rows, and adds two to a counter."""


@pytest.mark.parametrize(
  ('text', 'times'),
  [
    (loop(), 5),  # 0, 2, 4, 6, 8
    (loop(more=', backend_config={"known_trip_count":{"n":"3"}}'), 3),
    (loop([x.replace('LT', 'NE') for x in CONDITION]), 1),
    (loop(more=', metadata={op_name="jit(step)/overflow/while"}'), 0),
  ],
  ids=['a counter', 'said', 'not known', 'overflow'],
)
def test_a_loop_counts_as_often_as_it_runs(text, times):
  assert memory_bytes(Program(text)) == times * ONCE


@pytest.mark.parametrize(
  'words',
  [
    'branch_computations={%small, %large}',
    'true_computation=%small, false_computation=%large',
  ],
)
def test_of_a_conditional_the_largest_branch_counts(words):
  small = [f'%x = {U} parameter(0)', f'ROOT %y = {U} copy(%x)']
  large = [f'%x = {T} parameter(0)', f'ROOT %y = {T} copy(%x)']
  entry = [f'ROOT %c = {U} conditional(%p, %u, %a), {words}']
  text = module(entry, small=small, large=large)
  assert memory_bytes(Program(text)) == 2 * TABLE


@pytest.mark.parametrize(
  ('shapes', 'words', 'expected'),
  [
    # [4, 8] x [8, 16]
    (
      ('f32[4,16]', 'f32[4,8]', 'f32[8,16]'),
      'dim_labels=bf_io->bf',
      2 * 4 * 16 * 8,
    ),
    # Five products of [4, 8] x [8, 16], as the compiler of TPUs writes them.
    (
      ('f32[5,4,16]', 'f32[5,4,8]', 'f32[5,8,16]'),
      'window={size=5 stride=4 lhs_dilate=5}, dim_labels=0bf_0io->0bf',
      5 * 2 * 4 * 16 * 8,
    ),
    # A window of 3 on a line of 6, padded to give 6.
    (
      ('f32[1,6,1]', 'f32[1,6,1]', 'f32[3,1,1]'),
      'window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f',
      2 * (3 * 6 - 2),
    ),
  ],
  ids=['product', 'batch of products', 'padded'],
)
def test_a_convolution_counts_where_window_and_operand_meet(
  shapes, words, expected
):
  result, left, right = shapes
  text = module(
    [
      f'%l = {left} constant(0)',
      f'%r = {right} constant(0)',
      f'ROOT %c = {result} convolution(%l, %r), {words}',
    ]
  )
  assert products(Program(text)) == expected

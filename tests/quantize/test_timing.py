"""Times of calls that are compared."""

from dlrm_jax.quantize.timing import medians


def test_calls_take_turns():
  called = []
  calls = {name: lambda name=name: called.append(name) for name in 'abc'}
  found = medians(calls, seconds=0, rounds=500)
  assert called == [*'abc'] * (1 + 20)
  assert found.keys() == {*'abc'}
  assert medians(calls, seconds=60, rounds=2).keys() == {*'abc'}
  assert len(called) == 3 * (21 + 3)

"""What threads do for the main one is what it would have done itself."""

import operator

import jax
import jax.numpy as jnp
import pytest

from dlrm_jax.run.ahead import ahead, compile_ahead


def test_the_callers_settings_hold_for_what_is_compiled_ahead():
  numbers = jnp.ones(3), jnp.ones(3, jnp.bfloat16)
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in numbers]
  with pytest.raises(ValueError, match='promotion'):
    compile_ahead(jax.jit(operator.add), *shapes)(*numbers)
  with jax.numpy_dtype_promotion('standard'):
    add = compile_ahead(jax.jit(operator.add), *shapes)
  assert add(*numbers).tolist() == [2, 2, 2]


def test_what_work_raises_comes_where_it_is_waited_for():
  found = ahead(lambda: 1 // 0, 'work')
  with pytest.raises(ZeroDivisionError):
    found()

"""Storages that the program does not have: what any other must be able to."""

import dataclasses

import jax
import jax.numpy as jnp

from dlrm_jax.embedding.storage import Storage


@dataclasses.dataclass(frozen=True)
class Halves(Storage):
  """One array of bfloat16, rounded at random."""

  random = True

  @property
  def name(self):
    return 'halves'

  def leaves(self, dim):
    return jax.ShapeDtypeStruct((dim,), jnp.bfloat16)

  def decode(self, rows, dim):
    return rows.astype(jnp.float32)

  def encode(self, values, noise):
    if noise is None:
      return values.astype(jnp.bfloat16)
    bits = jax.lax.bitcast_convert_type(jnp.asarray(values), jnp.uint32)
    bits = (bits + (noise & 0xFFFF)) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(jnp.bfloat16)


@dataclasses.dataclass(frozen=True)
class Codes(Storage):
  """Codes u8[D], and for each row its scale and least value, f32[2]."""

  random = True

  @property
  def name(self):
    return 'codes'

  def leaves(self, dim):
    return {
      'codes': jax.ShapeDtypeStruct((dim,), jnp.uint8),
      'range': jax.ShapeDtypeStruct((2,), jnp.float32),
    }

  def decode(self, rows, dim):
    scale, least = rows['range'][..., :1], rows['range'][..., 1:]
    return rows['codes'].astype(jnp.float32) * scale + least

  def encode(self, values, noise):
    least = jnp.min(values, -1, keepdims=True)
    scale = (jnp.max(values, -1, keepdims=True) - least) / 255
    up = 0.5 if noise is None else (noise >> 8).astype(jnp.float32) * 2.0**-24
    code = jnp.floor((values - least) / jnp.maximum(scale, 1e-30) + up)
    return {
      'codes': jnp.clip(code, 0, 255).astype(jnp.uint8),
      'range': jnp.concatenate([scale, least], -1),
    }

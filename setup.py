"""Compiles the kernels in C, where it can; pyproject.toml has all else."""

import importlib.util
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

_FOLDER = Path('dlrm_jax', 'native')


def _kernels() -> list[Extension]:
  """The library of `dlrm_jax.native`; none where XLA's header is not there.

  It is optional: without a compiler the installation succeeds.
  """
  jaxlib = importlib.util.find_spec('jaxlib')
  if jaxlib is None or jaxlib.origin is None:
    return []
  library = Extension(
    'dlrm_jax.native._kernels',
    sources=[
      str(_FOLDER / f'{name}.c')
      for name in (
        'call',
        'multiply',
        'pool',
        'sparse',
        'sums8',
        'sums16',
        'update',
      )
    ],
    depends=[
      str(_FOLDER / f'{name}.h') for name in ('call', 'pool', 'rows', 'sums')
    ],
    include_dirs=[str(Path(jaxlib.origin).parent / 'include')],
    extra_compile_args=[
      *('-std=gnu11', '-O3', '-g0', '-Wno-psabi', '-fno-math-errno'),
      '-ffp-contract=off',  # the same results on all processors
    ],
    libraries=['m'],
    optional=True,
  )
  return [library]


class _Build(build_ext):
  """Names the library without a version of Python, of which it uses nothing."""

  def get_ext_filename(self, fullname: str) -> str:
    """The path of the library in the package."""
    return f'{Path(*fullname.split("."))}.so'


class _Wheel(bdist_wheel):
  """A wheel for any Python on this kind of machine."""

  def get_tag(self) -> tuple[str, str, str]:
    """The tag in its name."""
    return 'py3', 'none', super().get_tag()[2]


setup(
  ext_modules=_kernels(),
  cmdclass={'build_ext': _Build, 'bdist_wheel': _Wheel},
)

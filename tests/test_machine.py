"""Limits of containers, read from files as the kernel writes them."""

import pytest

from dlrm_jax import machine

GB = 10**9


@pytest.fixture
def kernel(tmp_path):
  """A function that writes files of the kernel, and the paths to read them."""

  def write(listing, files, available_kb=256_000_000):
    (tmp_path / 'cgroup').write_text(listing)
    (tmp_path / 'meminfo').write_text(
      f'MemTotal: 300000000 kB\nMemAvailable: {available_kb} kB\n'
    )
    for name, text in files.items():
      path = tmp_path / 'groups' / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text)
    return tmp_path / 'groups', tmp_path / 'cgroup', tmp_path / 'meminfo'

  return write


def test_without_limits_the_host_decides(kernel):
  paths = kernel('0::/\n', {'cpu.stat': ''})
  assert machine.free_memory(*paths) == 256_000_000 * 1024


def test_a_container_of_version_2_leaves_its_limit_less_what_is_used(kernel):
  paths = kernel(
    '0::/\n',
    {
      'memory.max': f'{8 * GB}\n',
      'memory.current': f'{3 * GB}\n',
      'memory.stat': f'anon {GB}\ninactive_file {GB}\nactive_file {GB}\n',
    },
  )
  assert machine.free_memory(*paths) == 7 * GB


def test_the_tightest_of_nested_groups_counts(kernel):
  paths = kernel(
    '0::/pod/box\n',
    {
      'pod/memory.max': f'{4 * GB}\n',
      'pod/memory.current': '0\n',
      'pod/box/memory.max': 'max\n',
      'pod/cpu.max': '150000 100000\n',
      'pod/box/cpu.max': 'max 100000\n',
    },
  )
  assert machine.free_memory(*paths) == 4 * GB
  assert machine.cores(*paths[:2]) <= 2


def test_a_container_of_version_1_that_sees_only_its_own_root(kernel):
  paths = kernel(
    '4:memory:/docker/0123\n1:cpu,cpuacct:/docker/0123\n',
    {
      'memory/memory.limit_in_bytes': f'{2 * GB}\n',
      'memory/memory.usage_in_bytes': f'{GB // 2}\n',
      'cpu,cpuacct/cpu.cfs_quota_us': '50000\n',
      'cpu,cpuacct/cpu.cfs_period_us': '100000\n',
    },
  )
  assert machine.free_memory(*paths) == 3 * GB // 2
  assert machine.cores(*paths[:2]) == 1


def test_files_of_inner_groups_are_given_back_in_version_1_too(kernel):
  paths = kernel(
    '4:memory:/\n',
    {
      'memory/memory.limit_in_bytes': f'{4 * GB}\n',
      'memory/memory.usage_in_bytes': f'{4 * GB}\n',
      'memory/memory.stat': f'active_file 0\ntotal_active_file {3 * GB}\n',
    },
  )
  assert machine.free_memory(*paths) == 3 * GB


def test_a_group_whose_use_is_not_told_has_its_limit(kernel):
  paths = kernel('0::/\n', {'memory.max': f'{4 * GB}\n'})
  assert machine.free_memory(*paths) == 4 * GB


def test_the_huge_number_of_version_1_is_no_limit(kernel):
  paths = kernel(
    '4:memory:/\n',
    {
      'memory/memory.limit_in_bytes': '9223372036854771712\n',
      'memory/memory.usage_in_bytes': '5\n',
    },
    available_kb=1000,
  )
  assert machine.free_memory(*paths) == 1_024_000


def test_a_machine_without_control_groups_has_its_cores(tmp_path):
  nothing = tmp_path / 'nothing'
  assert machine.cores(nothing, nothing) >= 1


@pytest.mark.parametrize(
  ('text', 'flags'),
  [
    ('model name\t: x\nflags\t\t: fpu avx2\nflags\t\t: fpu\n', {'fpu', 'avx2'}),
    ('Features\t: fp asimd\n', {'fp', 'asimd'}),
    ('Processor: unheard of\n', None),
    (None, None),
  ],
)
def test_linux_says_what_the_processor_has(text, flags, tmp_path):
  path = tmp_path / 'cpuinfo'
  if text is not None:
    path.write_text(text)
  found = machine.cpu_flags(path)
  assert found is flags is None or flags < found


def test_the_name_of_the_processor(tmp_path):
  path = tmp_path / 'cpuinfo'
  path.write_text('processor\t: 0\nmodel name\t: A Fast One @ 3 GHz\n')
  assert machine.cpu_name(path) == 'A Fast One @ 3 GHz'
  assert machine.cpu_name(tmp_path / 'nothing') == ''

"""Flags of all commands: help, mistakes, several values of a flag."""

import argparse
import importlib

import pytest

from dlrm_jax import train as train_module
from dlrm_jax.config.parser import Parser, split_values
from dlrm_jax.errors import InputError

COMMANDS = [
  'evaluate',
  'inspect.__main__',
  'plan.__main__',
  'prepare.__main__',
  'sweep.__main__',
  'traces.__main__',
  'tradeoff.__main__',
  'train',
]


@pytest.fixture(params=COMMANDS)
def main(request):
  return importlib.import_module(f'dlrm_jax.{request.param}').main


def test_help_is_printed_with_status_0(main, capsys):
  with pytest.raises(SystemExit) as caught:
    main(['--help'])
  assert caught.value.code == 0
  assert capsys.readouterr().out.startswith('usage: python ')


def test_a_wrong_flag_is_one_line_with_status_1(main, capsys):
  assert main(['--no_such_flag']) == 1
  message = capsys.readouterr().err
  assert message.startswith('error: ')
  assert len(message.splitlines()) == 1


@pytest.fixture
def parser():
  parser = Parser(prog='command')
  parser.add_required('--workdir', 'DIR', 'folder')
  parser.add_argument('--steps', type=int)
  parser.add_argument('--mode', choices=('a', 'b'))
  return parser


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ('', 'required: --workdir'),
    ('--workdir=', '--workdir=DIR must be given'),
    ('--workdir=a --steps=many', '^--steps=many: expected a whole number'),
    ('--workdir=a --step=3', 'unrecognized arguments: --step=3'),
    ('--workdir=a --mode=c', "--mode: invalid choice: 'c'"),
  ],
)
def test_mistakes_name_the_flag_and_what_is_expected(parser, flags, message):
  with pytest.raises(InputError, match=message) as caught:
    parser.parse_args(flags.split())
  assert str(caught.value).endswith('(see command --help)')


def test_a_flag_of_several_values_takes_the_first_behind_its_sign():
  parser = argparse.ArgumentParser()
  parser.add_argument('--input', nargs='+', action='extend')
  argv = ['--input=a=b', 'c', '--input', 'd']
  words = split_values(argv, ['--input'])
  assert parser.parse_args(words).input == ['a=b', 'c', 'd']


def test_a_training_is_started_by_what_is_there(tmp_path, monkeypatch, capsys):
  def usage():
    with pytest.raises(SystemExit):
      train_module.main(['--help'])
    return capsys.readouterr().out

  assert 'python train.py --config' in usage()
  monkeypatch.chdir(tmp_path)
  assert usage().startswith('usage: dlrm-train ')
  assert 'dlrm-train --config' in usage()
  assert 'train.py' not in usage()

"""A run on users and their items: trained, ranked, chosen, evaluated."""

import json

import jax
import numpy as np
import pytest

from dlrm_jax import evaluate, sharding
from dlrm_jax.batch import Inputs
from dlrm_jax.build.data import identity, open_data
from dlrm_jax.build.run import build_run
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.cluster.signals import Signals
from dlrm_jax.configs import default
from dlrm_jax.data.negatives import Negatives
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.implicit import list_files
from dlrm_jax.prepare.implicit.implicit_set import prepare_implicit
from dlrm_jax.run import loop, workdir
from dlrm_jax.run.history import read_history
from dlrm_jax.training.state import abstract_state
from tests import job

USERS, ITEMS = 60, 120


def interactions():
  """Rows of users who like items of their own half of the catalogue."""
  rng = np.random.default_rng(0)
  rows = []
  for user in range(USERS):
    half = np.arange(user % 2, ITEMS, 2)
    rows += [(user, item) for item in rng.choice(half, 20, replace=False)]
  return rows


def get_config(folder):
  config = default.get_config()
  config.data.dir = str(folder)
  config.data.negatives = 3
  config.model.dim, config.model.bottom, config.model.top = 4, (), (8,)
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.name, optimizer.learning_rate = 'adagrad', 0.05
  config.train.batch_size = 320
  config.train.steps, config.train.eval_every = 40, 20
  config.train.eval_batch_size = 1000
  config.train.objective = 'ndcg_10'
  return config


def train(config, folder, devices):
  data = open_data(config)
  run = build_run(config, data, folder)
  mesh = sharding.make_mesh(jax.devices()[:devices])
  claim = workdir.Claim(
    run.config, identity(data), run.steps, default.get_config().to_dict()
  )
  with (
    Signals() as signals,
    sharding.use(mesh),
    workdir.claimed(folder, claim),
  ):
    assert loop.train(run, signals) == 0


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with a set, a run of one device, and files of test lists."""
  folder = tmp_path_factory.mktemp('ranked')
  rows = ''.join(f'{user}\t{item}\n' for user, item in interactions())
  (folder / 'train.rating').write_text(rows)
  prepare_implicit([str(folder / 'train.rating')], str(folder / 'set'))
  train(get_config(folder / 'set'), folder / 'run', 1)
  owned = {}
  for user, item in interactions():
    owned.setdefault(user, set()).add(item)
  rng = np.random.default_rng(1)
  rating, negative = [], []
  for user, mine in owned.items():
    positive, *others = rng.permutation(sorted(set(range(ITEMS)) - mine))[:30]
    rating.append(f'{user}\t{positive}\t1\t5\n')
    negative.append('\t'.join(map(str, [f'({user},{positive})', *others])))
  (folder / 'test.rating').write_text(''.join(rating))
  (folder / 'test.negative').write_text('\n'.join(negative) + '\n')
  return folder


@pytest.fixture
def evaluated(place, capsys):
  """Evaluates; lines that were printed, and the JSON."""

  def run(*flags, workdir='run'):
    flags = [flag.replace('{place}', str(place)) for flag in flags]
    status = evaluate.main([f'--workdir={place}/{workdir}', *flags])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    lines = captured.out.splitlines()
    return lines, json.loads(lines[-1])

  return run


FILES = '--data={place}/test.rating', '--candidates={place}/test.negative'


def test_validation_ranks_lists_and_the_best_is_kept(place):
  rows = [
    row for row in read_history(place / 'run') if 'validation/ndcg_10' in row
  ]
  assert [row['step'] for row in rows] == [20, 40]
  assert all(row['validation/lists'] == USERS for row in rows)
  results = json.loads((place / 'run' / 'results.json').read_text())
  best = max(rows, key=lambda row: row['validation/ndcg_10'])
  assert results['step'] == best['step']
  found = results['splits']['validation']
  assert found['hr_10'] == pytest.approx(best['validation/hr_10'])
  # Halves of the catalogue are learned: chance is 10 of 100.
  assert found['hr_10'] > 0.13
  assert 'HR@10' in (place / 'run' / 'report.html').read_text()


@pytest.mark.slow
@pytest.mark.parametrize('devices', [2, 8])
def test_scores_do_not_depend_on_the_number_of_devices(
  devices, place, tmp_path
):
  train(get_config(place / 'set'), tmp_path / 'run', devices)
  for a, b in zip(
    read_history(place / 'run'), read_history(tmp_path / 'run'), strict=True
  ):
    for name in ('loss', 'validation/ndcg_10', 'validation/mrr'):
      if name in a:
        assert a[name] == pytest.approx(b[name], rel=1e-3)


def test_files_of_lists_are_ranked(place, evaluated):
  lines, result = evaluated(*FILES)
  assert any(line.startswith('  HR@10 ') for line in lines)
  assert any(line.startswith('  NDCG@10 ') for line in lines)
  assert result['metrics']['lists'] == USERS
  for name in ('hr_10', 'ndcg_10', 'mrr'):
    assert result[name] == result['metrics'][name]
  assert result['hr_10'] > 10 / 30
  only, same = evaluated(*FILES, '--json', '--batch_size=1')
  assert len(only) == 1
  assert same['metrics'] == pytest.approx(result['metrics'])


def test_a_split_of_lists_has_the_scores_that_training_has_logged(evaluated):
  _, result = evaluated('--split=validation', '--checkpoint=40')
  _, best = evaluated('--split=validation', '--checkpoint=20')
  assert result['metrics']['lists'] == best['metrics']['lists'] == USERS
  assert result['metrics']['auc'] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize('piece', [50, 4096])
def test_the_catalogue_is_ranked(piece, place, evaluated, monkeypatch):
  """The whole catalogue as given candidates has the same metrics."""
  monkeypatch.setattr(list_files, '_PIECE', piece)
  owned = {}
  for user, item in interactions():
    owned.setdefault(user, set()).add(item)
  lists = []
  for line in (place / 'test.rating').read_text().splitlines():
    user, positive = map(int, line.split('\t')[:2])
    others = sorted(set(range(ITEMS)) - owned[user] - {positive})
    lists.append('\t'.join(map(str, [f'({user},{positive})', *others])))
  (place / 'all.negative').write_text('\n'.join(lists) + '\n')
  _, given = evaluated(FILES[0], '--candidates={place}/all.negative')
  _, found = evaluated(FILES[0], '--candidates=catalogue')
  assert found['metrics'] == pytest.approx(given['metrics'])


@pytest.fixture(scope='module')
def branches(place):
  """The task of a run with two branches, in folder `branches`."""
  config = get_config(place / 'set')
  config.model.branches = 2
  config.train.steps = 20
  train(config, place / 'branches', 1)
  return build_run(config, open_data(config), place / 'branches').task


def ranked(scores):
  """HR@10, NDCG@10 and MRR of the first of each list, f32[n, L]."""
  place = 1 + np.sum(scores[:, 1:] > scores[:, :1], 1)
  return {
    'hr_10': np.mean(place <= 10),
    'ndcg_10': np.mean((place <= 10) / np.log2(1 + place)),
    'mrr': np.mean(1 / place),
  }


def test_branches_rank_lists_one_by_one(place, branches, evaluated):
  lines, result = evaluated('--split=validation', workdir='branches')
  layout = branches.collection.layout
  stored = Saved(place / 'branches/checkpoints', layout)
  source = open_prepared(place / 'set').source('validation')
  ids = np.concatenate([source[k].ids for k in range(len(source))])
  with sharding.use(sharding.make_mesh(jax.devices()[:1])):
    state = stored.restore_for_evaluation(20, abstract_state(branches))
    inputs = Inputs(np.empty((len(ids), 0), np.float32), ids)
    by_branch = branches.network.by_branch(state.layers, state.tables, inputs)
  logits = np.asarray(by_branch).reshape(USERS, 100, 2)
  wanted = {'branch 0': logits[..., 0], 'branch 1': logits[..., 1]}
  wanted['ensemble'] = logits.mean(2)
  assert result['branches'].keys() == wanted.keys()
  for name, scores in wanted.items():
    found = result['branches'][name]
    for metric, value in ranked(scores).items():
      assert found[metric] == pytest.approx(value)
    (line,) = [line for line in lines if line.startswith(f'  {name} ')]
    assert f'{found["ndcg_10"]:.5f} ± ' in line
  assert result['metrics'] == result['branches']['ensemble']
  heading = 'branches AUC log-loss HR@10 NDCG@10 MRR'
  assert heading in [' '.join(line.split()) for line in lines]


def test_branches_rank_candidates_one_by_one(branches, evaluated):
  lines, result = evaluated(*FILES, workdir='branches')
  assert 'branches HR@10 NDCG@10 MRR' in [' '.join(x.split()) for x in lines]
  found = result['branches']
  assert found['branch 0']['hr_10'] != found['branch 1']['hr_10']
  assert result['metrics'] == found['ensemble']
  assert result['hr_10'] == found['ensemble']['hr_10']
  assert found['branch 1']['lists'] == USERS


MISTAKES = {
  'raw file without candidates': (FILES[:1], ['--candidates=FILE']),
  'no file of candidates': (
    [FILES[0], '--candidates={place}/none'],
    ['none: no such file'],
  ),
  'candidates of a split': (
    ['--candidates={place}/test.negative', '--split=validation'],
    ['expected --data=FILE'],
  ),
  'a set as a file': (
    ['--data={place}/set', '--candidates=catalogue'],
    ['set: expected raw files'],
  ),
  'beside a comparison': (
    [*FILES, '--compare={place}/run'],
    ['--candidates', 'no effect beside --compare'],
  ),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_line(name, place, capsys):
  flags, words = MISTAKES[name]
  flags = [flag.replace('{place}', str(place)) for flag in flags]
  assert evaluate.main([f'--workdir={place}/run', *flags]) == 1
  error = capsys.readouterr().err
  assert len(error.splitlines()) == 1
  for word in words:
    assert word in error


def test_negatives_and_metrics_of_lists_need_users_and_items(tmp_path, place):
  config = default.get_config()
  config.data.kind = 'synthetic'
  config.data.negatives = 1
  with pytest.raises(InputError, match=r'config\.data\.negatives is 1'):
    build_run(config, open_data(config), tmp_path)
  config.data.negatives = 0
  config.train.objective = 'hr_10'
  with pytest.raises(InputError, match='no lists to rank'):
    build_run(config, open_data(config), tmp_path)


def test_a_batch_counts_positives_and_negatives(tmp_path, place):
  config = get_config(place / 'set')
  config.train.batch_size = 72
  with pytest.raises(InputError, match='nearest: 64 and 96'):
    build_run(config, open_data(config), tmp_path)
  config.train.batch_size = 320
  run = build_run(config, open_data(config), tmp_path)
  rows = open_prepared(place / 'set').splits['train']
  assert run.steps_per_epoch == pytest.approx(4 * rows / 320)


def test_negatives_are_items_and_the_unknown_one(tmp_path, place):
  config = get_config(place / 'set')
  run = build_run(config, open_data(config), tmp_path)
  items = open_prepared(place / 'set').schema.sparse[1].rows
  assert run.reading.negatives == Negatives(3, column=1, first=0, items=items)


@pytest.mark.slow
def test_processes_rank_together(place, evaluated):
  _, alone = evaluated(*FILES)
  flags = [flag.replace('{place}', str(place)) for flag in FILES]
  command = ['-m', 'dlrm_jax.evaluate', f'--workdir={place}/run', *flags]
  done = job.run([*command, '--batch_size=100'], 2)
  result = json.loads(done[0].stdout.splitlines()[-1])
  assert result['metrics'] == pytest.approx(alone['metrics'])

#!/usr/bin/env bash
# Grain: one epoch over uneven shards skips records, though drop_remainder=False.
#
# Versions: grain 0.2.18, Python 3.11.
# Seen: an IndexSampler of 11 records in 4 shards, one epoch, no shuffle. Each
#   shard's DataLoader gives 2 records; records 2, 5 and 8 are never read.
# Expected: ShardOptions says that without drop_remainder the remainder goes to
#   the first shards, so shards of 3, 3, 3 and 2 records, and all of them read.
# What to do: let shards be even, or shard a MapDataset by slices:
#   dataset[shard::shards].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet grain==0.2.18

"$work/venv/bin/python" - <<'PY' | tee "$work/seen"
import grain.python as grain

records, shards, read = 11, 4, []
for shard in range(shards):
  options = grain.ShardOptions(shard, shards, drop_remainder=False)
  sampler = grain.IndexSampler(
    records, shard_options=options, shuffle=False, num_epochs=1
  )
  loader = grain.DataLoader(data_source=range(records), sampler=sampler)
  read.append([int(record) for record in loader])
  print(f'shard {shard} reads {read[-1]}')
print('never read:', sorted(set(range(records)) - set(sum(read, []))))
PY

diff "$work/seen" - <<'SEEN'
shard 0 reads [0, 1]
shard 1 reads [3, 4]
shard 2 reads [6, 7]
shard 3 reads [9, 10]
never read: [2, 5, 8]
SEEN

#!/usr/bin/env bash
# From a fresh clone to a trained and evaluated tiny world model, on CPU. Arguments go to `vagen quickstart`.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
bash "$root/scripts/setup.sh"

export OMP_WAIT_POLICY=PASSIVE # threads that wait must not spin: on a busy machine that costs most of the speed
export HF_HUB_OFFLINE=1        # nothing here needs the Hub
exec "$root/.venv/bin/vagen" quickstart "$@"

#!/usr/bin/env bash
# Run the tests, from a fresh clone if need be. Arguments go to pytest, paths as seen from the repository's root:
#   bash scripts/test.sh                    the default suite
#   bash scripts/test.sh -m slow tests/worlds
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
bash scripts/setup.sh dev

export OMP_WAIT_POLICY=PASSIVE # threads that wait must not spin: on a busy machine that costs most of the speed
export HF_HUB_OFFLINE=1        # no test may need the Hub
# Two processes, each file's tests in one of them: fixtures are made once per process. `-n 0` after it runs in one.
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"

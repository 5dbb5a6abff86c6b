#!/usr/bin/env bash
# Every benchmark, and the table and plots made from them: outputs/bench/{*.jsonl, table.md, summary.md, growth.png}.
#
#   bash scripts/bench/all.sh [FOLDER]
#
# About half an hour on two cores, which should have nothing else to do; each command takes ten minutes at most.
# Makes the peers' environment first.
#
#   PYTHON    an interpreter that has vagen installed (default: .venv/bin/python)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

python=${PYTHON:-.venv/bin/python}
folder=${1:-outputs/bench}
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$folder"
failed=()

# measure FILE COMMAND...: its JSON lines into a file, which appears when all is well.
measure() {
    local file=$folder/$1
    shift
    printf '==== %s\n' "$*" >&2
    if "$@" >"$file.part"; then
        mv "$file.part" "$file"
    else
        failed+=("$*")
        rm -f "$file.part"
    fi
}

PYTHON=$python bash scripts/bench/peers.sh || exit 1
measure 1-cloze_train.jsonl "$python" scripts/bench/cloze_train.py
measure 2-growth.jsonl "$python" scripts/bench/cloze_train.py --sizes tiny --clozes 1 4 64
measure 3-score.jsonl "$python" scripts/bench/score.py
measure 4-rollout.jsonl "$python" scripts/bench/rollout.py
measure 5-rl_step.jsonl "$python" scripts/bench/rl_step.py
measure 6-render.jsonl "$python" scripts/bench/render.py
measure 7-vector.jsonl "$python" scripts/bench/vector.py
measure 8-data.jsonl build/peers/bin/python scripts/bench/data.py
if "$python" -c 'import sys; from worlds.scene import why_missing; sys.exit(bool(why_missing()))'; then
    measure 9-scene.jsonl taskset -c 0 "$python" scripts/bench/scene.py
fi
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    measure 9-gpu_step.jsonl "$python" scripts/bench/gpu_step.py
fi
"$python" scripts/bench/table.py "$folder" || exit 1
if ((${#failed[@]})); then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi

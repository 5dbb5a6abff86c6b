#!/usr/bin/env bash
# Make the environment of the benchmarks' peers, build/peers: TRL, datasets and gym-sokoban beside the packages of .venv.
#
#   bash scripts/bench/peers.sh
#
# They are installed here and never into .venv, whose torch and transformers both sides use: what is compared is the
# trainers. Returns at once when all of it is there. Messages go to stderr.
#
#   PYTHON    an interpreter that has vagen installed (default: .venv/bin/python)
set -euo pipefail

peers=(trl datasets accelerate)
renderers=(gym-sokoban imageio) # asks for the old gym, of which its renderer needs nothing: installed without
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
python=${PYTHON:-$root/.venv/bin/python}
venv=$root/build/peers
stamp=$venv/.made

say() { printf 'peers: %s\n' "$*" >&2; }

if ! [[ -x $python ]]; then
    say "no interpreter $python: run scripts/setup.sh first, or name one with PYTHON=/path/to/python"
    exit 1
fi
wanted="$("$python" -c 'import sys; print(sys.prefix)') ${peers[*]} ${renderers[*]}"
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    exit 0
fi
say "making $venv"
"$python" -m venv --clear "$venv"
here=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
there=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf 'import site; site.addsitedir(%s)\n' "'$there'" >"$here/vagen-environment.pth"
"$python" - >"$venv/constraints.txt" <<'PYTHON'
from importlib.metadata import version

for package in ("torch", "transformers", "numpy", "pillow"):
    print(f"{package}=={version(package)}")
PYTHON
say "installing ${peers[*]} ${renderers[*]}"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check -c "$venv/constraints.txt" "${peers[@]}" >&2
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps "${renderers[@]}" >&2
printf '%s\n' "$wanted" >"$stamp"

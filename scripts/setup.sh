#!/usr/bin/env bash
# Make .venv in this checkout and install the project into it, editable.
#
#   bash scripts/setup.sh [EXTRA ...]      for example: bash scripts/setup.sh dev
#
# Needs bash, Python 3.11 or later with its venv module, and the package index that pip is configured for. Returns at
# once when .venv is already up to date. Messages go to stderr.
#
#   PYTHON        the interpreter .venv is made from (default: the first suitable python3 on PATH)
#   VAGEN_TORCH   what `pip install` gets for torch, as it is, e.g. VAGEN_TORCH=torch on a CUDA machine
#                 (default: the CPU build, which pulls in no CUDA packages; a torch already in .venv is kept)
set -euo pipefail

torch_version=2.13.0
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
stamp=$venv/.vagen-setup
log=$venv/setup.log

say() { printf 'setup: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# stage LABEL COMMAND...: one line with the seconds it took; the command's own output only if it fails.
stage() {
    local label=$1 start=$SECONDS
    shift
    printf 'setup: %s ... ' "$label" >&2
    if "$@" >"$log" 2>&1 </dev/null; then
        printf '%d s\n' $((SECONDS - start)) >&2
    else
        printf 'failed\n' >&2
        cat "$log" >&2
        exit 1
    fi
}

pip() { "$venv/bin/python" -m pip install -qq --disable-pip-version-check "$@"; }

recent_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate found
    if [[ -n ${PYTHON:-} ]]; then set -- "$PYTHON"; else set -- python3 python3.13 python3.12 python3.11; fi
    for candidate in "$@"; do
        if recent_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    found=$("$1" --version 2>/dev/null) || found="no working $1"
    die "needs Python 3.11 or later, found $found; name one with PYTHON=/path/to/python3.11"
}

installed_torch() {
    "$venv/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' 2>/dev/null
}

# Plain `torch` on Linux brings gigabytes of CUDA packages. A version marked +cpu is found where pip has been given a
# CPU wheel or an index of them; elsewhere uv knows where the CPU builds are.
install_cpu_torch() {
    if [[ $(uname -s) == Darwin ]]; then
        pip "torch==$torch_version"
        return
    fi
    pip "torch==$torch_version+cpu" && return
    pip uv && "$venv/bin/uv" pip install --quiet --no-cache --python "$venv/bin/python" \
        --torch-backend cpu "torch==$torch_version" && return
    echo "No CPU build of torch within reach. Give pip a folder (PIP_FIND_LINKS) or an index that has" \
        "torch==$torch_version+cpu, or say what to install instead with VAGEN_TORCH."
    return 1
}

# The stamp: checksum of pyproject.toml, place of the checkout, extras, and what was asked for as torch.
checksum=$(cksum <"$root/pyproject.toml")
extras=" $* "
old_checksum='' old_root='' old_extras='' old_torch=''
if [[ -f $stamp ]]; then
    { read -r old_checksum && read -r old_root && IFS= read -r old_extras && IFS= read -r old_torch; } <"$stamp" || true
fi

missing=''
for extra in $old_extras "$@"; do
    [[ $extras == *" $extra "* ]] || extras+="$extra "
    [[ " $old_extras " == *" $extra "* ]] || missing=yes
done
if [[ $old_checksum == "$checksum" && $old_root == "$root" && -z $missing &&
    (-z ${VAGEN_TORCH:-} || $old_torch == "$VAGEN_TORCH") && -x $venv/bin/python ]]; then
    exit 0
fi

# A moved checkout or a removed interpreter leaves a .venv that cannot work.
if [[ -n $old_root && $old_root != "$root" ]] || ! recent_enough "$venv/bin/python"; then
    python=$(find_python)
    say "making .venv with $("$python" --version) ($python)"
    VAGEN_TORCH=${VAGEN_TORCH:-$old_torch}
    "$python" -m venv --clear "$venv" || die "could not make $venv; Debian and Ubuntu keep venv in python3-venv"
fi
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    stage "adding pip to .venv" "$venv/bin/python" -m ensurepip --default-pip
fi
rm -f "$stamp"

if [[ -n ${VAGEN_TORCH:-} ]]; then
    read -ra torch_request <<<"$VAGEN_TORCH"
    stage "installing $VAGEN_TORCH" pip "${torch_request[@]}"
elif ! installed_torch >/dev/null; then
    stage "installing torch $torch_version for CPU" install_cpu_torch
fi

# The constraint keeps that torch whatever the other packages would rather have.
installed_torch >"$venv/torch-constraint.txt"
read -ra names <<<"$extras"
list=$(IFS=, && printf '%s' "${names[*]-}")
export DS_BUILD_OPS=0
stage "installing vagen-cloze${list:+ [$list]} and what it needs" \
    pip -c "$venv/torch-constraint.txt" -e "$root${list:+[$list]}"

printf '%s\n' "$checksum" "$root" "${names[*]-}" "${VAGEN_TORCH:-$old_torch}" >"$stamp"

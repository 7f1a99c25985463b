#!/bin/sh
# Build a virtual environment from lock.txt: install.sh FOLDER, with PYTHON naming an interpreter (optional).
# A folder that is already whole is brought up to date in seconds; a half-built one is built again.
set -eu

venv=$1
here=$(dirname "$0")
unfinished="$venv/.unfinished"

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }

supported() {
    # Quiet: a version manager's shim may exist and refuse to run.
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null
}

version() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null; }

usable() {
    [ ! -e "$unfinished" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 && supported "$venv/bin/python"
}

choose() {
    if [ -n "${PYTHON:-}" ]; then
        found=$(version "$PYTHON") || fail "PYTHON=$PYTHON does not run; name one that does: make PYTHON=python3.12 venv"
        supported "$PYTHON" || fail "PYTHON=$PYTHON is Python $found$(venv_hint "$found"); make PYTHON=python3.12 venv selects another"
        return
    fi
    for PYTHON in python3.11 python3 python python3.12 python3.13; do
        if supported "$PYTHON"; then return; fi
    done
    found=$(version python3 || echo none)
    fail "no Python 3.11 to 3.13 with its venv module here (python3: $found); install one (on Debian and Ubuntu with python3-venv), or name it: make PYTHON=/path/to/python3.11 venv"
}

venv_hint() {
    case $1 in
        3.11.* | 3.12.* | 3.13.*) printf ' without its venv module: install it (Debian and Ubuntu: python3-venv)' ;;
        *) printf ', and Edge Parity needs 3.11 to 3.13' ;;
    esac
}

same_python() { [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version "$venv/bin/python")" ]; }

compile=--compile
if ! { usable && same_python; }; then
    choose
    say "building $venv with Python $(version "$PYTHON"): $(grep -c '==' "$here/lock.txt") pinned packages, 5 GB, 2 to 3 minutes"
    "$PYTHON" -m venv --clear "$venv"
    # Compiled afterwards on all cores, which takes half as long as pip's own compiling on one.
    compile=--no-compile
fi
touch "$unfinished"

# Twice quiet: warnings about a machine's own package sources are no news here. Errors are still shown.
pip() { "$venv/bin/python" -m pip --disable-pip-version-check -qq "$@"; }

pip install "$compile" --no-deps --only-binary=:all: -r "$here/lock.txt"
pip install --no-deps --no-build-isolation -e "$here/.."
if [ "$compile" = --no-compile ]; then
    # Some packages carry templates that are no valid Python: their failure to compile is no news.
    "$venv/bin/python" -m compileall -qq -j 0 -x '[\\/]tests?[\\/]' "$venv/lib" >/dev/null 2>&1 || true
fi

loads_torch() { "$venv/bin/python" -c 'import torch' >/dev/null 2>&1; }

if ! loads_torch; then
    # Without a CPU build at hand, a registry gives Linux the CUDA build, which needs the libraries it declares.
    say "torch here is the CUDA build: installing the libraries it declares (3 GB more; a CPU build does without)"
    pip install --only-binary=:all: -c "$here/lock.txt" "$(grep '^torch==' "$here/lock.txt")"
    loads_torch || fail "torch does not load: $("$venv/bin/python" -c 'import torch' 2>&1 | tail -n 1); set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS to a source of CPU builds of torch, then 'make clean venv'"
fi
rm -f "$unfinished"

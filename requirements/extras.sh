#!/bin/sh
# Add the packages of extras.txt to a virtual environment that install.sh has built: extras.sh FOLDER.
# Nothing that lock.txt names is changed.
set -eu

venv=$1
here=$(dirname "$0")

if [ ! -x "$venv/bin/python" ] || [ -e "$venv/.unfinished" ]; then
    printf '%s\n' "error: $venv is not whole; run 'make venv' first" >&2
    exit 2
fi
"$venv/bin/python" -m pip --disable-pip-version-check -qq install --no-deps --only-binary=:all: -r "$here/extras.txt"

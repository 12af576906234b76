#!/bin/sh
# Where the project's Python environment is (`path`), and how it is made (`make`).
# An active virtual or conda environment with Python 3.11 or newer is used as it is; else .venv is made from the
# newest Python found, seeing that Python's own packages when it already has a torch that fits.
set -eu

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

active() {
    for place in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
        if [ -n "$place" ] && [ -x "$place/bin/python" ] && fits "$place/bin/python"; then
            printf '%s\n' "$place"
            return
        fi
    done
}

find_python() {
    for name in python3.13 python3.12 python3.11 python3 python; do
        if command -v "$name" >/dev/null 2>&1 && fits "$name"; then
            command -v "$name"
            return
        fi
    done
}

has_torch() {
    "$1" - 2>/dev/null <<'PYTHON'
import importlib.metadata as metadata, sys
major, minor = (int(part) for part in metadata.version("torch").split(".")[:2])
sys.exit((major, minor) < (2, 6))
PYTHON
}

place=$(active)
case "${1:-}" in
path) printf '%s\n' "${place:-.venv}" ;;
make)
    if [ -n "$place" ]; then
        echo "using the active environment $place" >&2
    elif [ ! -x .venv/bin/python ]; then
        python=$(find_python)
        if [ -z "$python" ]; then
            echo "no Python 3.11 or newer was found on the PATH; install one (python.org or your package manager), then run this again" >&2
            exit 1
        fi
        share=""
        if has_torch "$python"; then
            share="--system-site-packages"
            echo "reusing the torch of $python" >&2
        fi
        echo "making .venv with $python" >&2
        "$python" -m venv $share .venv
        .venv/bin/python -m pip install -q --disable-pip-version-check -U pip
    fi
    ;;
*)
    echo "usage: environment.sh path|make" >&2
    exit 2
    ;;
esac

#!/usr/bin/env bash
# Set up .venv with the tested packages if it is not there, or not of this requirements.txt. Prints nothing when done.
# About 5 GB and 3 minutes on a fast network; sourced by demo.sh and test.sh, which then use "$python".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$PWD/.venv/bin/python
stamp=.venv/installed-requirements.txt
if ! cmp -s requirements.txt "$stamp"; then
  echo "setting up .venv from requirements.txt (about 5 GB, a few minutes) ..." >&2
  base=${BASE_PYTHON:-python3}
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    { echo "error: Python 3.10 or newer is needed, $base is $("$base" --version); set BASE_PYTHON" >&2; exit 2; }
  "$base" -m venv .venv
  "$python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
  cp requirements.txt "$stamp"
fi
# Small networks gain little from a second thread, and threads that wait for each other by spinning become ten times
# slower as soon as another program wants the cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Containers often set this: each process, here hundreds, would then compile this package again.
unset PYTHONDONTWRITEBYTECODE

#!/usr/bin/env bash
# Set up, lint, run the tests: what CI runs. Arguments go to pytest, e.g. bash scripts/test.sh -k entropy
source "$(dirname "$0")/setup.sh"
"$python" -m ruff check .
"$python" -m ruff format --check .
status=0
# three workers on two cores: many tests wait for processes
"$python" -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@" || status=$?
if ! command -v chromium chromium-browser google-chrome > /dev/null; then
  echo
  echo "WARNING: no Chromium or Chrome on this machine: the tests of HTML pages in a browser were SKIPPED." >&2
  echo "         Install one and run again; on Debian: apt-get install chromium" >&2
fi
exit "$status"

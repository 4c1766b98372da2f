#!/usr/bin/env bash
# Set up, lint, run the tests. Arguments go to pytest:
#     bash scripts/test.sh -k entropy         those with a word in their names
#     bash scripts/test.sh -m 'not slow'      those marked `long` as well, as CI does
#     bash scripts/test.sh -m slow            those that take minutes each
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

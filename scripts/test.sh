#!/usr/bin/env bash
# Set up, lint, run the tests: what CI runs. Arguments go to pytest, e.g. bash scripts/test.sh -k entropy
source "$(dirname "$0")/setup.sh"
"$python" -m ruff check .
"$python" -m ruff format --check .
exec "$python" -m pytest -n 2 --dist loadfile "$@"

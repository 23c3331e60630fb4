#!/usr/bin/env bash
# Runs the tests, but those that take many minutes: these run by `-m slow`.
# Usage: bash launch/test.sh [pytest options]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment requirements.txt tests/requirements.txt
keep_memory
# Two processes, for tests mostly compile, each on one core; a module stays in one of them, with its fixtures.
.venv/bin/python -m pytest -n 2 --dist loadfile "$@"

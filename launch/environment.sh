# Sourced by the other scripts: changes to the project's folder and offers what they share.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || return

# make_environment FILE ...: a virtual environment in .venv with these requirements, and with JAX for the accelerator
# that JAX_FOR names (cuda13, cuda12 or tpu; else the CPU), installed once and when they change.
make_environment() {
  local python=${PYTHON:-python3} stamp jax=${JAX_FOR:+jax[$JAX_FOR]}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: arada needs Python 3.11 or newer; name one with PYTHON=/path/to/python" >&2
    return 1
  fi
  stamp=.venv/.installed-$({ cat "$@" && printf %s "$jax"; } | cksum | cut -d' ' -f1)
  if [ ! -e "$stamp" ]; then
    echo "Installing $*${jax:+ and $jax} into .venv (minutes, once)"
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --upgrade pip
    local files=()
    for file in "$@"; do files+=(-r "$file"); done
    .venv/bin/python -m pip install --quiet "${files[@]}" ${jax:+"$jax"}
    touch "$stamp"
  fi
}

# run COMMAND ...: runs it, or only prints it where DRY_RUN is set.
run() {
  if [ -n "${DRY_RUN:-}" ]; then
    local quoted
    printf -v quoted ' %q' "$@"
    echo "${quoted:1}"
  else
    "$@"
  fi
}

# Sourced by the other scripts: changes to the project's folder and defines shared functions.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || return

# make_environment FILE ...: makes a virtual environment in .venv with these requirements, and with JAX for the
# accelerator in JAX_FOR (cuda13, cuda12 or tpu; otherwise the CPU). Installs again only after a change.
make_environment() {
  local python=${PYTHON:-python3} stamp jax=${JAX_FOR:+jax[$JAX_FOR]}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: arada needs Python 3.11 or newer; set PYTHON=/path/to/python" >&2
    return 1
  fi
  stamp=.venv/.installed-$({ cat "$@" && printf %s "$jax"; } | cksum | cut -d' ' -f1)
  if [ ! -e "$stamp" ]; then
    echo "Installing $*${jax:+ and $jax} into .venv (minutes, once)"
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --upgrade pip
    local files=()
    for file in "$@"; do files+=(-r "$file"); done
    .venv/bin/python -m pip install --quiet ${files[@]+"${files[@]}"} ${jax:+"$jax"}
    touch "$stamp"
  fi
}

# keep_memory: for training on a CPU. Each step allocates and frees blocks of hundreds of megabytes. By default glibc
# returns them to the system and needs fresh pages in the next step; with these settings it keeps them, in huge pages
# (glibc 2.35 or newer; others ignore the settings). All threads share one arena, which is slow for hosts that decode
# images.
keep_memory() {
  local keep=glibc.malloc.mmap_threshold=8000000000:glibc.malloc.trim_threshold=16000000000
  export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1:$keep}
}

# examine CONFIG OPTION ...: runs the doctor on this machine and config; the script ends if something is wrong. DOCTOR=0
# skips it.
examine() {
  local config=$1
  shift
  [ "${DOCTOR:-1}" = 0 ] || run .venv/bin/python -m arada.doctor --config="$config" "$@"
}

# estimate OPTION ...: in a dry run, prints the roofline's hours and dollars on stderr. ESTIMATE=0 skips it.
estimate() {
  [ -n "${DRY_RUN:-}" ] && [ "${ESTIMATE:-1}" != 0 ] || return 0
  if [ -x .venv/bin/python ]; then
    JAX_PLATFORMS=cpu .venv/bin/python -m launch.benchmarks.roofline "$@" >&2 || true
  else
    echo "hours and dollars: python -m launch.benchmarks.roofline $*, once the environment is installed" >&2
  fi
}

# run COMMAND ...: runs the command, or only prints it if DRY_RUN is set.
run() {
  if [ -n "${DRY_RUN:-}" ]; then
    local quoted
    printf -v quoted ' %q' "$@"
    echo "${quoted:1}"
  else
    "$@"
  fi
}

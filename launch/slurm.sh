#!/usr/bin/env bash
# One run on several nodes of a Slurm cluster, one process for each GPU. JAX finds the processes by Slurm's variables.
#
# Cost of ImageNet (six trainings, a ranking and the evaluation), estimated by
# `python -m launch.benchmarks.roofline --config=configs/imagenet.py:ar_adals --devices=16` (30 % of peak, prices of
# about 2025): 8 to 14 hours of 16 A100, depending on XLA's fusion; 650 to 1,100 dollars if rented.
#
# Usage, from the project's folder, which all nodes must share:
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 launch/slurm.sh --config=configs/imagenet.py:ar_adals \
#     --workdir=DIR --config.data.streams=16
# Two minutes before the job's time is up Slurm sends a signal: the run is asked to stop within 90 seconds (GRACE in the
# environment), and the job queues itself again until the run is done. `bash launch/slurm.sh --dry-run ...` prints the
# commands. A sweep needs no script, because `arada.sweep` submits its points and seeds as one array, each task on one
# node:
#   pip install submitit
#   python -m arada.sweep --config=configs/cifar10.py:ar_adals --workdir=DIR --grid=ar_adals --cluster=slurm \
#     --job=slurm_partition=gpu --job=gpus_per_node=1 --job=timeout_min=1440 --job=slurm_array_parallelism=16
#SBATCH --job-name=arada
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=arada-%j.log
set -euo pipefail
# Slurm runs a copy of this file in another folder.
source "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}/launch/environment.sh"
if [ "${1:-}" = --dry-run ]; then DRY_RUN=1 && shift; fi
export JAX_FOR=${JAX_FOR:-cuda13} JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/workdir/compiled}
output=$(mktemp)

run make_environment requirements.txt
# The doctor takes only the flags of the config.
config_flags=()
for word in "$@"; do case $word in --config*) config_flags+=("$word") ;; esac; done
estimate ${config_flags[@]+"${config_flags[@]}"} --devices="${SLURM_NTASKS:-1}"
# Only this script gets the signal, which ends its 'wait'. It is not SIGTERM, because scancel uses SIGTERM to cancel a
# job, which must not be queued again. scancel signals the tasks, because srun kills them if it gets a SIGTERM itself.
asked='' code=0
trap 'asked=1; scancel --signal=TERM "$SLURM_JOB_ID" || true' USR1
# srun does not inherit the cores of a task.
cores=${SLURM_CPUS_PER_TASK:-8}
if [ "${DOCTOR:-1}" != 0 ]; then
  run srun --kill-on-bad-exit=1 --cpus-per-task="$cores" .venv/bin/python -m arada.doctor \
    ${config_flags[@]+"${config_flags[@]}"}
fi
{ run srun --kill-on-bad-exit=1 --cpus-per-task="$cores" .venv/bin/python -m arada.main "$@" | tee "$output"; } &
wait $! || code=$?
if [ -n "$asked" ]; then
  # During a ranking or an evaluation several tasks do not stop: they are killed, and continue from part files later.
  for ((left = ${GRACE:-90}; left > 0; left--)); do
    kill -0 $! 2>/dev/null || break
    sleep 1
  done
elif [ "$code" -ne 0 ]; then
  exit "$code"
fi
# "Done" is a finished run's last line; a run that was asked to stop does not print it.
grep -q '^Done: ' "$output" || run scontrol requeue "${SLURM_JOB_ID:-JOB}"

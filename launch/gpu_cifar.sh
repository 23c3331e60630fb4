#!/usr/bin/env bash
# CIFAR on all NVIDIA GPUs of one machine: vanilla, its ranking, then each method with all seeds, and a report.
#
# Cost of four methods on one A100, estimated by
# `python -m launch.benchmarks.roofline --config=configs/cifar10.py:ar_adals` (30 % of peak, prices of about 2025): cifar10
# at most 3 hours for 20 trainings, 15 dollars; cifar10_wrn or cifar100_wrn 25 hours for 16 trainings, 130 dollars. Several
# GPUs share a batch: fewer hours at the same cost.
#
# Usage: bash launch/gpu_cifar.sh [--dry-run] [cifar10|cifar10_wrn|cifar100_wrn] [METHOD ...] [--config.FIELD=VALUE ...]
#        bash launch/gpu_cifar.sh [--dry-run] configs/studies/FILE.py [FLAG OF arada.study ...]
#   e.g. bash launch/gpu_cifar.sh cifar10_wrn vanilla ar_adals_on_the_fly
#        bash launch/gpu_cifar.sh configs/studies/paper_cifar10.py
# The doctor checks the machine first. --dry-run prints the commands, and hours and dollars on four accelerators. After
# a kill or a preemption the same command continues. Environment variables: WORKDIR (default workdir/CONFIG), JAX_FOR
# (cuda13; cuda12 for older drivers), TFDS_DATA_DIR, DOCTOR=0 (no check), ESTIMATE=0 (no hours).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# A run that is asked to stop ends with exit code 0; without these traps the next run would start.
trap 'exit 130' INT
trap 'exit 143' TERM
name='' methods=() overrides=()
for word in "$@"; do
  case $word in
    --dry-run) DRY_RUN=1 ;;
    -*) overrides+=("$word") ;;
    *) if [ -z "$name" ]; then name=$word; else methods+=("$word"); fi ;;
  esac
done
name=${name:-cifar10}
case $name in *.py) stem=$(basename "$name" .py) ;; *) stem=$name ;; esac
workdir=${WORKDIR:-workdir/$stem}
export JAX_FOR=${JAX_FOR:-cuda13} JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$workdir/compiled}

run make_environment requirements.txt
# Before bash 4.4, as on macOS, an empty array is an unset variable.
if [ "$name" != "$stem" ]; then
  [ ${#methods[@]} -eq 0 ] || { echo "error: ${methods[0]}: a study names its methods itself" >&2 && exit 1; }
  estimate --study="$name" --devices=1
  [ "${DOCTOR:-1}" = 0 ] || run .venv/bin/python -m arada.doctor
  run .venv/bin/python -m arada.study --study="$name" --workdir="$workdir" ${overrides[@]+"${overrides[@]}"}
  exit
fi
[ ${#methods[@]} -gt 0 ] || methods=(vanilla label_smoothing adals ar_adals)
run .venv/bin/python -m arada.prepare --config="configs/$name.py" ${overrides[@]+"${overrides[@]}"}
examine "configs/$name.py:${methods[0]}" ${overrides[@]+"${overrides[@]}"}
for method in ${methods[@]+"${methods[@]}"}; do
  estimate --config="configs/$name.py:$method" --devices=1 ${overrides[@]+"${overrides[@]}"}
  run .venv/bin/python -m arada.main --config="configs/$name.py:$method" --workdir="$workdir" \
    ${overrides[@]+"${overrides[@]}"}
done

#!/usr/bin/env bash
# ResNet-101 on ImageNet on a Cloud TPU slice: creates the slice, installs arada on all its hosts and runs there. After
# a preemption it requests a new slice and continues until the run is done; then it deletes the slice.
#
# Cost of six trainings, a ranking and the evaluation, estimated by
# `python -m launch.benchmarks.roofline --config=configs/imagenet.py:ar_adals --devices=32` (30 % of peak, prices of
# about 2025): 4 to 10 hours of 32 TPU v4 chips, depending on XLA's fusion; 400 to 1,000 dollars on demand, less on spot. With
# --config.seeds='(0,)' 2 to 4 hours, 170 to 380 dollars.
#
# Usage: PROJECT=... ZONE=us-central2-b WORKDIR=gs://BUCKET/imagenet DATA_DIR=gs://BUCKET/tensorflow_datasets \
#   bash launch/tpu_imagenet.sh [--dry-run] [--delete] [PRESET] [--config.FIELD=VALUE ...]
#   bash launch/tpu_imagenet.sh [--dry-run] configs/studies/FILE.py [FLAG OF arada.study ...]
# The doctor checks the slice first (DOCTOR=0 skips it). --dry-run prints the commands, and hours and dollars; --delete
# deletes the slice, which costs money until then. Needs gcloud, logged in, and ImageNet prepared in DATA_DIR (see
# docs/data.md). More environment variables: NAME (default arada), TYPE (v4-64: 32 chips, the paper's 128 images each),
# RUNTIME (tpu-ubuntu2204-base), SPOT (1; 0 for a slice that is not preempted).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
preset=ar_adals overrides=() delete=
for word in "$@"; do
  case $word in
    --dry-run) DRY_RUN=1 ;;
    --delete) delete=1 ;;
    -*) overrides+=("$word") ;;
    *) preset=$word ;;
  esac
done
: "${PROJECT:?names the Google Cloud project}" "${ZONE:?names the zone of the slice}"
name=${NAME:-arada}
here=(--project="$PROJECT" --zone="$ZONE")

# NONE only if Google says so: a slice that is wrongly taken for missing would be requested twice, at twice the cost.
state() {
  run gcloud compute tpus queued-resources describe "$name" "${here[@]}" --format='value(state.state)' \
    2>"$errors" && return
  if grep -q NOT_FOUND "$errors"; then
    echo NONE
  else
    echo UNKNOWN
    echo "$(head -n 1 "$errors") (asked again in a minute)" >&2
  fi
}
delete_slice() { run gcloud compute tpus queued-resources delete "$name" "${here[@]}" --force --quiet; }
on_all_hosts() { run gcloud compute tpus tpu-vm ssh "$name" "${here[@]}" --worker=all --command="$1"; }

create_slice() {
  local spot=--spot
  [ "${SPOT:-1}" = 1 ] || spot=
  run gcloud compute tpus queued-resources create "$name" "${here[@]}" --node-id="$name" \
    --accelerator-type="${TYPE:-v4-64}" --runtime-version="${RUNTIME:-tpu-ubuntu2204-base}" ${spot:+"$spot"}
}

# Waits for the slice. A preempted slice never comes back, so it is requested again.
await_slice() {
  local now
  while true; do
    now=$(state)
    [ -z "${DRY_RUN:-}" ] || { echo "$now" && create_slice && return; }
    [ "$now" = UNKNOWN ] || exists=1
    case $now in
      ACTIVE) return ;;
      NONE) create_slice ;;
      FAILED | SUSPENDING | SUSPENDED) delete_slice && exists='' && continue ;;
    esac
    sleep 60
  done
}

# Installs the commit that is checked out here, with its own Python, because the image's is too old.
install() {
  local bundle=${TMPDIR:-/tmp}/arada.bundle
  run git bundle create --quiet "$bundle" HEAD &&
    run gcloud compute tpus tpu-vm scp "$bundle" "$name:" "${here[@]}" --worker=all &&
    on_all_hosts 'set -e; git init -q arada; cd arada; git fetch -q ../arada.bundle HEAD; git checkout -q FETCH_HEAD
      python3 -m pip install -q --user uv; ~/.local/bin/uv python install -q 3.12
      export PYTHON=$(~/.local/bin/uv python find 3.12) JAX_FOR=tpu
      source launch/environment.sh; make_environment requirements.txt'
}

# Runs the doctor and then the same command on every host. Before bash 4.4, as on macOS, an empty array counts as unset.
train() {
  local doctor=() command flags
  case $preset in
    *.py) command=(arada.study --study="$preset" --workdir="$WORKDIR" ${overrides[@]+"${overrides[@]}"}) ;;
    *)
      doctor=(--config="configs/imagenet.py:$preset" --config.run.data_dir="$DATA_DIR")
      doctor+=(${overrides[@]+"${overrides[@]}"})
      command=(arada.main --workdir="$WORKDIR" ${doctor[@]+"${doctor[@]}"})
      ;;
  esac
  printf -v flags ' %q' ${command[@]+"${command[@]}"}
  flags=".venv/bin/python -m$flags"
  if [ "${DOCTOR:-1}" != 0 ]; then
    doctor=(arada.doctor ${doctor[@]+"${doctor[@]}"})
    flags=".venv/bin/python -m$(printf ' %q' ${doctor[@]+"${doctor[@]}"}) && $flags"
  fi
  # A study's configs find their data by TFDS_DATA_DIR.
  on_all_hosts "cd arada; export JAX_COMPILATION_CACHE_DIR=$WORKDIR/compiled TFDS_DATA_DIR=$DATA_DIR; $flags"
}

if [ -n "$delete" ]; then
  delete_slice
  exit
fi
: "${WORKDIR:?is a gs:// folder}" "${DATA_DIR:?is a gs:// folder of TFDS}"
[ -n "${DRY_RUN:-}" ] || hash gcloud
case $preset in
  *.py) estimate --study="$preset" --devices=32 ;;
  *) estimate --config="configs/imagenet.py:$preset" --devices=32 ${overrides[@]+"${overrides[@]}"} ;;
esac
exists='' output=$(mktemp) errors=$(mktemp)
trap '[ -z "$exists" ] || echo "The slice still exists and costs money: bash launch/tpu_imagenet.sh --delete" >&2' EXIT
trap 'exit 130' INT # whatever gcloud does with it
while true; do
  await_slice
  if install && train | tee "$output"; then
    # A finished run's last line, perhaps after the host's name; a run that was asked to stop, or a dry run, lacks it.
    if [ -n "${DRY_RUN:-}" ] || grep -Eq '(Done|Page): ' "$output"; then break; fi
  else
    sleep 60 # until the state shows a preemption
    if [ "$(state)" = ACTIVE ]; then
      echo "error: the run failed, and the slice still exists; the same command continues" >&2
      exit 1
    fi
  fi
done
delete_slice
exists=''

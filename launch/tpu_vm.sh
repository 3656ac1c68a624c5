#!/usr/bin/env bash
# A TPU v5e or v6e slice through queued resources.
#
#   launch/tpu_vm.sh --name=NAME --zone=ZONE [--accelerator-type=v5litepod-8] [--spot] \
#     [--slices=1] [--project=ID] [--runtime-version=…] [--attempts=1] [--keep] \
#     [--dry-run] -- --config=FILE --workdir=gs://… …
#
# Waits for the slice, installs this checkout, runs, and deletes the slice. With --spot
# a preempted slice is deleted and asked for again, and the run resumes. Google sends
# newer TPUs to Compute Engine and GKE: see compute_engine.sh and gke.sh.
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name='' zone='' accelerator_type=v5litepod-8 spot='' slices=1 project=''
runtime_version='' attempts='' pause=60 keep=''
parse "name zone accelerator_type spot slices project runtime_version attempts pause keep" "$@"
[[ $name && $zone ]] || die "give --name and --zone"
[[ $workdir == gs://* ]] || die "--workdir=$workdir is lost with the slice; give gs://…"
if [[ ! $runtime_version ]]; then
  case $accelerator_type in
    v5litepod-*) runtime_version=v2-alpha-tpuv5-lite ;;
    v6e-*) runtime_version=v2-alpha-tpuv6e ;;
    *) die "no runtime is known for $accelerator_type; give --runtime-version" ;;
  esac
fi
where=(--zone="$zone")
[[ $project ]] && where+=(--project="$project")
queued=(gcloud compute tpus queued-resources)

create() {
  local kind=(--node-id="$name")
  ((slices > 1)) && kind=(--node-count="$slices" --node-prefix="$name")
  [[ $spot ]] && kind+=(--spot)
  run "${queued[@]}" create "$name" "${where[@]}" "${kind[@]}" \
    --accelerator-type="$accelerator_type" --runtime-version="$runtime_version" || return
  wait_until_active
}

wait_until_active() {
  local state describe=("${queued[@]}" describe "$name" "${where[@]}"
    --format='value(state.state)')
  echo "+ $(quoted "${describe[@]}")  # until it is ACTIVE"
  [[ $dry_run ]] && return 0
  while true; do
    state=$("${describe[@]}") || return
    case $state in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING) echo "$name is $state" >&2 && return 1 ;;
    esac
    echo "$name is $state; waiting" >&2
    sleep "$pause"
  done
}

work() {
  local everywhere=(--worker=all --node=all) archive=/tmp/eseg_jax.tar.gz
  pack "$archive" || return
  run "${queued[@]}" scp "$archive" "$name:" "${where[@]}" "${everywhere[@]}" || return
  run "${queued[@]}" ssh "$name" "${where[@]}" "${everywhere[@]}" \
    --command="$(remote_command)"
}

remove() {
  [[ $keep ]] || run "${queued[@]}" delete "$name" "${where[@]}" --force --quiet
}

[[ $attempts ]] || attempts=$([[ $spot ]] && echo 1000 || echo 1)
need_clone
attempts "$attempts"

#!/usr/bin/env bash
# What slurm.sh submits: runs the workers and queues the job again until the run is
# finished. sbatch copies this file, so the others are found from the folder it ran in.
# shellcheck source=launch/common.sh
source "$PWD/launch/common.sh"

parse "" "$@"
status=0
run srun --kill-on-bad-exit=1 "$root/launch/worker.sh" -- "${main_args[@]}" || status=$?
if [[ ! $dry_run ]] && ((status == 0)) && ! finished; then
  run scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

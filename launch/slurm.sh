#!/usr/bin/env bash
# GPU nodes of a SLURM cluster: one task a node, or one a GPU.
#
#   launch/slurm.sh [--nodes=1] [--tasks-per-node=1] [--gpus-per-node=8] \
#     [--cpus-per-task=16] [--time=24:00:00] [--name=eseg_jax] [--partition=…] \
#     [--dry-run] -- --config=FILE --workdir=DIR …
#
# Two minutes before the time is up, and when the job is preempted, the run saves; the
# job is then queued again under its number until the run is finished.
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nodes=1 tasks_per_node=1 gpus_per_node=8 cpus_per_task=16 time=24:00:00
name=eseg_jax partition=
parse "nodes tasks_per_node gpus_per_node cpus_per_task time name partition" "$@"

run sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node="$tasks_per_node" \
  --gpus-per-node="$gpus_per_node" --cpus-per-task="$cpus_per_task" --time="$time" \
  ${partition:+"--partition=$partition"} --requeue --signal=TERM@120 \
  --open-mode=append --output="$name-%j.log" --chdir="$root" \
  "$root/launch/slurm_job.sh" -- "${main_args[@]}"

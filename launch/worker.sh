#!/usr/bin/env bash
# What every host of a job runs: one process of eseg_jax.main.
#
#   launch/worker.sh [--preempted-status=0] [--dry-run] -- --config=FILE --workdir=DIR …
#
# SIGTERM is handed on: the run saves and ends with status 0. A scheduler that must not
# take that for success, such as Kubernetes, asks for another with --preempted-status.
#
# ESEG_JAX_PYTHON names the Python, if it is neither .venv/bin/python nor python3.
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preempted_status=0
parse "preempted_status" "$@"

cd "$root"
python=python3
[[ -x .venv/bin/python ]] && python=.venv/bin/python
python=${ESEG_JAX_PYTHON:-$python}
export PYTHONUNBUFFERED=1 # logs of a lost host end where it ended
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-1}

command=("$python" -m eseg_jax.main "${main_args[@]}")
echo "+ $(quoted "${command[@]}")"
[[ $dry_run ]] && exit 0

told=
"${command[@]}" &
child=$!
trap 'told=1 signalled=1; kill -TERM "$child" 2>/dev/null' TERM INT
status=0
wait_for "$child" || status=$?
[[ $told && $status == 0 ]] && status=$preempted_status
exit "$status"

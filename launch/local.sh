#!/usr/bin/env bash
# One box of GPUs, or of none: N processes on this machine.
#
#   launch/local.sh [--processes=1] [--gpus=8] [--attempts=1] [--dry-run] \
#     -- --config=FILE --workdir=DIR …
#
# One process drives all GPUs of a box and is the default. With --processes=N each gets
# its share of --gpus=M, of none when M is 0.
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

processes=1 gpus=0 attempts=1 pause=1
parse "processes gpus attempts pause" "$@"
((gpus % processes == 0)) || die "--gpus=$gpus cannot be shared by $processes processes"

create() { :; }
remove() { :; }

work() {
  local address env first i
  address=localhost:$(free_port)
  for ((i = 0; i < processes; i++)); do
    env=()
    if ((processes > 1)); then
      env+=(JAX_COORDINATOR_ADDRESS="$address"
        JAX_NUM_PROCESSES="$processes" JAX_PROCESS_ID="$i")
    fi
    if ((processes > 1 && gpus > 0)); then
      first=$((i * gpus / processes))
      env+=(CUDA_VISIBLE_DEVICES="$(seq -s, "$first" $((first + gpus / processes - 1)))")
    fi
    start env "${env[@]}" "$root/launch/worker.sh" -- "${main_args[@]}"
  done
  told=
  trap 'told=1 signalled=1; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
  local status=0
  wait_for_all || status=$?
  [[ $told ]] && exit "$status" # told to stop: no further attempt
  return "$status"
}

free_port() {
  python3 -c 'import socket
with socket.socket() as probe:
    probe.bind(("", 0))
    print(probe.getsockname()[1])'
}

attempts "$attempts"

# shellcheck shell=bash
# What the launchers share: their flags, commands that --dry-run only prints, and the
# loop that starts a run again until it is finished.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dry_run=
main_args=()
pids=()

die() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# parse "flag another_flag" "$@": --flag=value sets $flag, a bare --flag sets it to 1;
# what follows -- goes to eseg_jax.main unchanged.
parse() {
  local names flag value
  read -ra names <<<"$1 dry_run"
  shift
  while (($#)); do
    if [[ $1 == -- ]]; then
      shift
      main_args=("$@")
      break
    fi
    [[ $1 == --* ]] || die "'$1' is no flag; what eseg_jax.main gets comes after --"
    flag=${1%%=*} value=1
    [[ $1 == *=* ]] && value=${1#*=}
    flag=${flag#--} flag=${flag//-/_}
    [[ " ${names[*]} " == *" $flag "* ]] ||
      die "unknown flag --${flag//_/-}; there are:$(printf ' --%s' "${names[@]//_/-}")"
    printf -v "$flag" %s "$value"
    shift
  done
  workdir=$(main_flag workdir)
  [[ $workdir && $(main_flag config) ]] ||
    die "the flags of eseg_jax.main are missing: … -- --config=FILE --workdir=DIR"
}

# The value of --NAME=value among the flags of eseg_jax.main.
main_flag() {
  local argument
  for argument in "${main_args[@]}"; do
    [[ $argument == --"$1"=* ]] && echo "${argument#*=}"
  done
  return 0
}

# A command as one line that a shell would read back.
quoted() {
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}

# Prints a command and runs it.
run() {
  echo "+ $(quoted "$@")"
  [[ $dry_run ]] || "$@"
}

# Prints a command and runs it beside others, until wait_for_all.
start() {
  echo "+ $(quoted "$@") &"
  if [[ ! $dry_run ]]; then
    "$@" &
    pids+=($!)
  fi
}

# Waits for a process; a signal, whose trap sets `signalled`, interrupts `wait` only.
wait_for() {
  local status
  while true; do
    status=0 signalled=
    wait "$1" || status=$?
    [[ $signalled ]] || return "$status"
  done
}

# Waits for what `start` started; fails as the last of them that failed.
wait_for_all() {
  local pid status=0
  for pid in "${pids[@]}"; do
    wait_for "$pid" || status=$?
  done
  pids=()
  return "$status"
}

# Whether the run has done all its steps; it says so in the workdir.
finished() {
  local mode
  mode=$(main_flag mode)
  [[ ${mode:-train} == train ]] || return 0
  case $workdir in
    gs://*) gcloud storage cat "$workdir/timing.json" 2>/dev/null ;;
    *) cat "$workdir/timing.json" 2>/dev/null ;;
  esac | grep -q '"finished": true'
}

# attempts N: calls the functions `create`, `work` and `remove` until the run is
# finished; a run that was preempted resumes from its last checkpoint.
attempts() {
  local left=$1
  while ((left-- > 0)); do
    if create && work && { [[ $dry_run ]] || finished; }; then
      remove
      return 0
    fi
    remove || true
    echo "${0##*/}: the run is not finished; $left more attempts" >&2
    sleep "${pause:-60}"
  done
  return 1
}

# Stops before anything is paid for when `pack` would have nothing to pack.
need_clone() {
  [[ $dry_run ]] || git -C "$root" rev-parse --quiet --verify HEAD >/dev/null ||
    die "$root is no git clone with a commit; the machines get its committed files"
}

# Copies of the tracked files of this checkout for machines that have none.
pack() {
  run git -C "$root" archive --format=tar.gz --output="$1" HEAD
}

# What a fresh machine does with eseg_jax.tar.gz in its home folder. Its own Python may be
# too old: uv brings one.
remote_command() {
  echo "set -e; mkdir -p eseg_jax; tar -xzf eseg_jax.tar.gz -C eseg_jax; cd eseg_jax;" \
    "curl -LsSf https://astral.sh/uv/install.sh | sh; export PATH=~/.local/bin:\$PATH;" \
    "uv venv -q --allow-existing --python 3.11;" \
    "uv pip install -q -c constraints.txt -e '.[tpu]';" \
    "$(quoted launch/worker.sh -- "${main_args[@]}" --distributed=on)"
}

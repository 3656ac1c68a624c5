#!/usr/bin/env bash
# Fills the tables that need an NVIDIA GPU, in parts of ten minutes at most.
#
#   benchmarks/run_gpu.sh OUT            every part that OUT does not have yet
#   benchmarks/run_gpu.sh OUT PART...    only these; `--list` instead of OUT names them
#   benchmarks/run_gpu.sh OUT --smoke    every part, tiny, on the CPU
#
# Needs jax[cuda13], torch, flax, optax, orbax-checkpoint, ml_collections, etils, absl-py,
# tensorboard and pillow in the environment of `python` (or $PYTHON), neither TensorFlow
# nor a network. The CamVid parts need CAMVID_DATASET and as many calls as it takes: each
# goes on where the last one stopped. Logs, JSON and finished parts are kept in OUT.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
networks=(eseg_lite_s eseg_s sfnet_resnet18 dfanet_a frfnet)
runs=(frfnet eseg_lite_m eseg_lite_s eseg_s sfnet_resnet18 sfnet_df1 frfnet_slim dfanet_a dfanet_b)

parts() {
  printf '%s\n' warp_bfloat16 warp_float32
  printf 'train_%s\n' "${networks[@]}"
  printf '%s\n' inference
  printf 'camvid_%s\n' "${runs[@]}"
}

if [[ $# -eq 0 ]]; then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
  exit 2
fi
if [[ $1 == --list ]]; then
  parts
  exit
fi
out=$1
shift
smoke=
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda}
if [[ ${1:-} == --smoke ]]; then
  shift
  smoke=yes
  export JAX_PLATFORMS=cpu
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
# Two libraries share the card; neither may take most of it at its start.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_COMPILATION_CACHE_DIR=$out/compiled TORCHINDUCTOR_CACHE_DIR=$out/inductor
export PYTHONPATH=$root PYTHONUNBUFFERED=1
cd "$root"

# run NAME: its command; fails when the part did not end well.
run() {
  local name=$1 bench=benchmarks
  case $name in
    warp_*)
      "$python" $bench/warp.py --torch_python="$python" --dtype="${name#warp_}" \
        ${smoke:+--quick --rounds=1}
      ;;
    train_*)
      local size=(--crop=config --batch=0 --dtype=bfloat16 --rounds=10)
      local backends=jax,torch,compiled
      [[ ${smoke:-} ]] && size=(--crop=64x64 --batch=2 --rounds=1) backends=jax,torch
      "$python" $bench/train_step.py --names="${name#train_}" "${size[@]}" \
        --backends="$backends" \
        --json="$out/training.json"
      ;;
    inference)
      local size=(--size=1024x2048 --seconds=3) names=("${networks[@]}")
      [[ ${smoke:-} ]] && size=(--size=64x64 --seconds=0.1) names=(eseg_lite_s)
      local backend
      for backend in jax torch "torch --compile"; do
        [[ ${smoke:-} && $backend == *compile ]] && continue
        # shellcheck disable=SC2086 # two words
        "$python" -m eseg_jax.tools.benchmark "${names[@]}" "${size[@]}" \
          --precision=bfloat16 --backend=$backend --json="$out/inference_${backend// --/_}.json"
      done
      ;;
    camvid_*)
      local config=() workdir=$out/$name
      # FRFNet's and DFANet's papers have a recipe for CamVid; the others get as many
      # epochs as FRFNet's, at its size.
      [[ $name == camvid_[es]* ]] && config=(
        --config.total_steps=18350 --config.eval_every=2000
        --config.input.batch_size=16 '--config.input.crop=(360,480)'
        '--config.input.scale=(0.5,2.0)' --config.optimizer.warmup_steps=230
      )
      [[ $name == camvid_eseg_* ]] && config+=(--config.model.options.drop_rate=0.2)
      [[ ${smoke:-} ]] && config=(
        --config.total_steps=2 --config.eval_every=2 --config.input.batch_size=2
        '--config.input.crop=(48,64)' --config.optimizer.warmup_steps=0
      )
      "$python" $bench/camvid.py --config="configs/${name#camvid_}.py:camvid" \
        --workdir="$workdir" --seconds=500 "${config[@]}"
      [[ -f $workdir/result.json ]]
      ;;
    *)
      echo "run_gpu.sh has no part $name; --list names them." >&2
      exit 2
      ;;
  esac
}

wanted=("$@")
[[ ${#wanted[@]} -gt 0 ]] || mapfile -t wanted < <(parts)
failed=()
for name in "${wanted[@]}"; do
  if [[ -f $out/$name.done ]]; then
    echo "== $name: done before"
    continue
  fi
  echo "== $name, log in $out/$name.log"
  # A subshell: `set -e` holds inside although its status is asked for.
  set +e
  (set -e; run "$name") >>"$out/$name.log" 2>&1
  status=$?
  set -e
  tail -n 12 "$out/$name.log"
  if [[ $status -eq 0 ]]; then
    touch "$out/$name.done"
  else
    failed+=("$name")
  fi
done
if [[ ${#failed[@]} -gt 0 ]]; then
  echo "not finished: ${failed[*]}; call again to go on" >&2
  exit 1
fi

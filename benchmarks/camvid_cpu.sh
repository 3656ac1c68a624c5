#!/usr/bin/env bash
# Trains every network on CamVid for about as long on a CPU: benchmarks/camvid.md's table.
#
#   CAMVID_DATASET=DIR benchmarks/camvid_cpu.sh OUT              all, one after the other
#   CAMVID_DATASET=DIR benchmarks/camvid_cpu.sh OUT NETWORK...   only these
#   SEED=1 …                                                     another seed
#   WEIGHTS=DIR …                     backbones from what `eseg_jax.tools.convert` wrote
#   RATE=2e-3 …                       another learning rate
#   LONG=1 … NETWORK                  an hour and more, of larger crops: eseg_lite_s or _m,
#                         frfnet, eseg_effnet_lite0; validated every 500 steps
#
# Set CORE=0 to keep to one core. What is finished is not trained again, what was stopped
# goes on, so that two calls may share the networks. `camvid.py --tables=OUT` prints the table.
set -euo pipefail

if [[ $# -eq 0 ]]; then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
  exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
out=$1
shift

networks=(
  eseg_lite_s eseg_lite_m eseg_s sfnet_resnet18 sfnet_df1 dfanet_a dfanet_b frfnet
  frfnet_slim
)
[[ $# -gt 0 ]] || set -- "${networks[@]}"
# Steps that take 12 to 23 minutes of a busy core, compiling included.
declare -A steps=(
  [eseg_lite_s]=1400 [eseg_lite_m]=950 [eseg_s]=340 [eseg_effnet_lite0]=500
  [sfnet_resnet18]=140 [sfnet_df1]=600
  [dfanet_a]=750 [dfanet_b]=950 [frfnet]=420 [frfnet_slim]=500
)

# 2e-3 but for those that underfit with it; benchmarks/camvid.md has what was tried.
declare -A rates=([eseg_s]=1e-2 [dfanet_a]=1e-2 [dfanet_b]=1e-2)

crop="(192,256)" scale="(0.4,1.0)" size="(240,320)" eval_every=100000
if [[ -n ${LONG:-} ]]; then
  steps=([eseg_lite_s]=5000 [eseg_lite_m]=1200 [eseg_effnet_lite0]=2000 [frfnet]=3000)
  crop="(240,320)" scale="(0.5,1.25)" size="(360,480)" eval_every=500
fi

# The square roots of ENet's class weights; whole ones make blobs of poles and signs.
weights="(1.3,1.13,3.2,1.0,2.1,1.6,3.1,3.1,2.0,3.4,3.6)"
seed=${SEED:-0}
export JAX_PLATFORMS=cpu PYTHONPATH=$root PYTHONUNBUFFERED=1
for name in "$@"; do
  ${CORE:+taskset -c "$CORE"} "${PYTHON:-python}" "$root/benchmarks/camvid.py" \
    --config="$root/configs/$name.py:camvid" --workdir="$out/${name}_$seed" \
    --config.seed="$seed" --config.total_steps="${steps[$name]:?not a network of this table: $name}" \
    --config.eval_every="$eval_every" --config.eval.size="$size" \
    --config.input.batch_size=8 --config.input.crop="$crop" \
    --config.input.scale="$scale" --config.input.brightness=0.2 \
    --config.input.contrast=0.2 --config.input.saturation=0.2 \
    --config.optimizer.name=adam --config.optimizer.schedule=cosine \
    --config.optimizer.learning_rate="${RATE:-${rates[$name]:-2e-3}}" \
    --config.optimizer.final_learning_rate=0.0 \
    --config.optimizer.warmup_steps=50 --config.optimizer.weight_decay=1e-4 \
    --config.optimizer.clip_norm=10.0 --config.loss.ohem_threshold=0.0 \
    --config.loss.class_weights="$weights" \
    --config.compilation_cache="$out/compiled" \
    ${WEIGHTS:+--config.init_from="$WEIGHTS" --config.init_part=backbone}
done

#!/usr/bin/env bash
# Self-training from end to end (ESeg §4.4): Mapillary Vistas -> Cityscapes -> pseudo-labels
# of the coarse images -> student, as many rounds of the last two as you like.
#
#   launch/selftrain.sh --workdir=runs/selftrain [--model=eseg_s] [--data=cityscapes]
#     [--rounds=1] [--processes=1] [--gpus=0] [--dry-run] [-- --config.FIELD=VALUE …]
#   launch/selftrain.sh --workdir=/tmp/chain --data=scenes   # the small one, no data needed
#
# Each stage has a folder in the workdir:
#
#   pretrain   the network on Mapillary Vistas (scenes: on scenes of other colours)
#   teacher    fine-tuned on Cityscapes, all but the classifier from pretrain
#   teacher/pseudo/train_extra   its labels of the images without fine ones
#   student1   starts from pretrain as the teacher did; half true labels, half pseudo-labels
#   student1/pseudo/train_extra, student2, …   the student is the next teacher
#
# A stage that is finished is left alone and one that was stopped goes on, so the same
# command resumes. What comes after -- goes to every stage.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
workdir='' model=eseg_s data=cityscapes rounds=1 processes=1 gpus=0 dry_run=()
while (($#)); do
  case $1 in
    --workdir=* | --model=* | --data=* | --rounds=* | --processes=* | --gpus=*)
      flag=${1%%=*} && printf -v "${flag#--}" %s "${1#*=}" ;;
    --dry-run) dry_run=(--dry-run) ;;
    --) shift && break ;;
    *) echo "selftrain.sh: unknown flag $1; see the top of the file" >&2 && exit 2 ;;
  esac
  shift
done
[[ $workdir ]] || { echo "selftrain.sh: --workdir=DIR is missing" >&2 && exit 2; }
all=("$@")

# What one stage has compiled, evaluations for one, the next need not compile again.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$workdir/compilation_cache}

# Minutes on a CPU: small images, few of them with labels, short runs at one rate.
small=()
argument=$data
if [[ $data == scenes ]]; then
  small=(--config.model.name=eseg_lite_s --config.optimizer.learning_rate=0.08
    --config.dataset.size='(64,128)' --config.input.crop='(64,128)'
    --config.dataset.train_images=60 --config.dataset.extra_images=240
    --config.total_steps=500 --config.eval_every=500 --config.checkpoint_every=500)
fi

# stage NAME CONFIG FLAGS…: trains or labels in a folder of the workdir.
stage() {
  local folder=$workdir/$1 config=$2
  shift 2
  echo "== ${folder} ${config}"
  "$root/launch/local.sh" --processes="$processes" --gpus="$gpus" "${dry_run[@]}" -- \
    --config="$root/configs/$config" --workdir="$folder" "${small[@]}" "$@" "${all[@]}"
}

pretrain=$argument
[[ $data == scenes ]] || pretrain=mapillary
stage pretrain "${model}_mapillary_pretrain.py:$pretrain"
stage teacher "${model}_mapillary_finetune.py:$argument" \
  --config.init_from="$workdir/pretrain"
teacher=teacher
for ((round = 1; round <= rounds; round++)); do
  stage "$teacher" "${model}.py:$argument" --mode=pseudo_label
  stage "student$round" "${model}_selftrain.py:$argument" \
    --config.init_from="$workdir/pretrain" --config.init_part=all_but_classifier \
    --config.dataset.pseudo="$workdir/$teacher/pseudo/train_extra"
  teacher=student$round
done
[[ ${dry_run[*]} ]] || for folder in "$workdir"/teacher "$workdir"/student*; do
  score=$(grep '"split": "val"' "$folder/metrics.jsonl" | tail -n 1 | grep -o '"miou": [0-9.]*')
  echo "${folder##*/}: $score"
done

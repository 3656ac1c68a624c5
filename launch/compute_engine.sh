#!/usr/bin/env bash
# A TPU v6e or TPU7x slice on Compute Engine: a managed instance group whose workload
# policy has the topology of the slice.
#
#   launch/compute_engine.sh --name=NAME --zone=ZONE --tpu=v6e|tpu7x --topology=2x4 \
#     [--spot|--flex-start] [--project=ID] [--image-family=…] [--attempts=1] [--keep] \
#     [--dry-run] -- --config=FILE --workdir=gs://… …
#
# Waits for the hosts, installs this checkout on each, runs, and deletes the group. With
# --spot a preempted group is deleted and made again, and the run resumes.
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name='' zone='' tpu='' topology='' spot='' flex_start='' project=''
image_family='' image_project=ubuntu-os-accelerator-images attempts='' pause=60 keep=''
parse "name zone tpu topology spot flex_start project image_family image_project attempts pause keep" "$@"
[[ $name && $zone && $topology ]] || die "give --name, --zone and --topology"
[[ $workdir == gs://* ]] || die "--workdir=$workdir is lost with the slice; give gs://…"
case $tpu in # 4 chips a host
  v6e) machine=ct6e-standard-4t family=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e ;;
  tpu7x) machine=tpu7x-standard-4t family=${image_family:-} ;;
  *) die "--tpu=$tpu: give v6e or tpu7x; tpu_vm.sh has v5e" ;;
esac
image_family=${image_family:-$family}
[[ $image_family ]] || die "give --image-family for TPU7x, one that this lists:
  gcloud compute images list --project=$image_project --filter='family~tpu'"
hosts=$((${topology//x/*} / 4))
((hosts > 0)) || die "--topology=$topology has fewer than the 4 chips of one host"
region=${zone%-*}
gcloud=(gcloud)
[[ $project ]] && gcloud+=(--project="$project")
group=("${gcloud[@]}" compute instance-groups managed)

create() {
  local model=(--provisioning-model=STANDARD)
  [[ $spot ]] && model=(--provisioning-model=SPOT --instance-termination-action=DELETE)
  [[ $flex_start ]] && model=(--provisioning-model=FLEX_START --max-run-duration=7d
    --instance-termination-action=DELETE)
  run "${gcloud[@]}" compute resource-policies create workload-policy "$name" \
    --region="$region" --type=HIGH_THROUGHPUT --accelerator-topology="$topology" \
    --accelerator-topology-mode=AUTO_CONNECT || return
  run "${gcloud[@]}" compute instance-templates create "$name" \
    --instance-template-region="$region" --machine-type="$machine" "${model[@]}" \
    --maintenance-policy=TERMINATE --boot-disk-size=200GB \
    --image-family="$image_family" --image-project="$image_project" \
    --scopes=https://www.googleapis.com/auth/cloud-platform || return
  run "${group[@]}" create "$name" --region="$region" --zones="$zone" --size="$hosts" \
    --template="projects/$(project_id)/regions/$region/instanceTemplates/$name" \
    --workload-policy="projects/$(project_id)/regions/$region/resourcePolicies/$name" \
    --target-size-policy-mode=bulk --default-action-on-vm-failure=do-nothing || return
  run "${group[@]}" wait-until "$name" --region="$region" --stable
}

project_id() {
  if [[ $project || $dry_run ]]; then
    echo "${project:-PROJECT}"
  else
    gcloud config get-value project 2>/dev/null
  fi
}

instances() {
  if [[ $dry_run ]]; then
    seq --format="$name-%g" "$hosts"
  else
    "${group[@]}" list-instances "$name" --region="$region" --format='value(instance.basename())'
  fi
}

work() {
  local archive=/tmp/eseg_jax.tar.gz instance all
  pack "$archive" || return
  all=$(instances) || return
  for instance in $all; do
    run "${gcloud[@]}" compute scp "$archive" "$instance:" --zone="$zone" || return
  done
  for instance in $all; do
    start "${gcloud[@]}" compute ssh "$instance" --zone="$zone" \
      --command="$(remote_command)"
  done
  wait_for_all
}

remove() {
  [[ $keep ]] && return
  run "${group[@]}" delete "$name" --region="$region" --quiet || true
  run "${gcloud[@]}" compute instance-templates delete "$name" --region="$region" --quiet || true
  run "${gcloud[@]}" compute resource-policies delete "$name" --region="$region" --quiet || true
}

[[ $attempts ]] || attempts=$([[ $spot ]] && echo 1000 || echo 1)
need_clone
attempts "$attempts"

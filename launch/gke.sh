#!/usr/bin/env bash
# A TPU slice, or several, of a GKE cluster, as a JobSet.
#
#   launch/gke.sh --name=NAME --image=IMAGE --tpu=v5e|v6e|tpu7x --topology=2x4 \
#     [--slices=1] [--spot] [--restarts=1000] [--namespace=default] [--dry-run] \
#     -- --config=FILE --workdir=gs://… …
#
# The cluster needs JobSet and a node pool of that topology; the image has this checkout
# as its working folder, installed with '.[tpu]'. A preempted or failed slice is started
# again and the run resumes.
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name='' image='' tpu='' topology='' slices=1 spot='' restarts=1000 namespace=default
parse "name image tpu topology slices spot restarts namespace" "$@"
[[ $name && $image && $topology ]] || die "give --name, --image and --topology"
[[ $workdir == gs://* ]] || die "--workdir=$workdir is lost with the pods; give gs://…"
case $tpu in
  v5e) accelerator='tpu-v5-lite-podslice' ;;
  v6e) accelerator='tpu-v6e-slice' ;;
  tpu7x) accelerator='tpu7x' ;;
  *) die "--tpu=$tpu: give v5e, v6e or tpu7x" ;;
esac
chips=$((${topology//x/*}))
per_host=$((chips < 4 ? chips : 4))
hosts=$((chips / per_host))
distributed=off
((hosts * slices > 1)) && distributed=on

spot_selector='
              cloud.google.com/gke-spot: "true"'

manifest() {
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  namespace: $namespace
spec:
  failurePolicy:
    maxRestarts: $restarts
  replicatedJobs:
  - name: slice
    replicas: $slices
    template:
      spec:
        parallelism: $hosts
        completions: $hosts
        backoffLimit: 0
        template:
          metadata:
            annotations:
              alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 120
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $accelerator
              cloud.google.com/gke-tpu-topology: $topology${spot:+$spot_selector}
            containers:
            - name: eseg-jax
              image: $image
              command:
              - launch/worker.sh
              - --preempted-status=143
              - --
$(printf '              - "%s"\n' "${main_args[@]//\"/\\\"}" --distributed="$distributed")
              resources:
                limits:
                  google.com/tpu: $per_host
YAML
}

manifest
if [[ $dry_run ]]; then
  run kubectl apply -f -
else
  manifest | run kubectl apply -f -
fi

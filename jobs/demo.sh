#!/bin/sh
# The main job on this machine: train on two local hosts with four ranks, collect the shards, ask the model.
set -eu
cd "$(dirname "$0")/.."
question=${1:-"What is the capital of France?"}
orchestrate launch jobs/demo.yaml -i inventory/local.yaml
orchestrate collect-ckpt -o .demo/collected/demo.ckpt
echo
echo "Q: $question"
printf 'A: '
python -m model generate --checkpoint .demo/collected/demo.ckpt --prompt "$question"

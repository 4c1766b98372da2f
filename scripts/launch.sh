#!/usr/bin/env bash
# Start an ImageNet training on one or several machines. Called by run_B_128.sh and run_B_256.sh.
usage="usage: run_B_128.sh [MASTER_ADDR MASTER_PORT NODE_RANK] [--any.flag.of.the.config value ...]

One machine, all visible GPUs:
    IMAGENET_ROOT=/data/imagenet bash run_B_128.sh
Four machines, one command on each, NODE_RANK 0 to 3:
    NUM_NODES=4 IMAGENET_ROOT=/data/imagenet bash run_B_128.sh 10.0.0.1 29500 NODE_RANK
    (or with MASTER_ADDR, MASTER_PORT and NODE_RANK in the environment)
SLURM, one task a GPU:
    srun --nodes 4 --ntasks-per-node 8 --gpus-per-node 8 bash run_B_128.sh
Continue a run:
    bash run_B_128.sh --ckpt_path outputs/imagenet_B_128/version_0/checkpoints/last.ckpt

IMAGENET_ROOT (default data/imagenet) holds train/<class>/*.JPEG and val/<class>/*.JPEG.
PYTHON chooses the interpreter (default .venv/bin/python if there is one, else python)."
set -euo pipefail
fail() { echo "error: $*" >&2; exit 2; }

config=$1; shift
cd "$(dirname "$0")/.."
case "${1:-}" in -h|--help) echo "$usage"; exit 0 ;; esac
if [[ $# -gt 0 && "$1" != -* ]]; then
  [[ $# -ge 3 && "$2" =~ ^[0-9]+$ && "$3" =~ ^[0-9]+$ ]] ||
    fail "expected MASTER_ADDR MASTER_PORT NODE_RANK before the flags, got: $*"$'\n'"$usage"
  export MASTER_ADDR=$1 MASTER_PORT=$2 NODE_RANK=$3; shift 3
  [[ -n "${NUM_NODES:-}" ]] || fail "MASTER_ADDR is given but not NUM_NODES: how many machines take part?"
fi

python=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python)}
"$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("open_magvit2") is None)' 2>/dev/null ||
  fail "$python cannot import open_magvit2: run 'pip install -r requirements.txt', or set PYTHON"

# Early and clear refusals; a flag that replaces what is checked switches its check off.
flags=" $* "
imagenet=${IMAGENET_ROOT:-data/imagenet}
data=()
if [[ "$flags" != *" --data"* || -n "${IMAGENET_ROOT:-}" ]]; then
  for split in train val; do
    [[ -d "$imagenet/$split" ]] ||
      fail "no ImageNet at $imagenet/$split: set IMAGENET_ROOT to the folder that holds train/<class>/ and val/<class>/"
  done
  data=(--data.init_args.train.init_args.root "$imagenet/train" --data.init_args.validation.init_args.root "$imagenet/val")
fi
if [[ "$flags" != *"--trainer.accelerator"* ]]; then
  "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" ||
    fail "PyTorch sees no GPU (check nvidia-smi and CUDA_VISIBLE_DEVICES), or pass --trainer.accelerator cpu"
fi

nodes=${NUM_NODES:-1}
trainer=()
if [[ -n "${SLURM_PROCID:-}" && -n "${SLURM_NTASKS_PER_NODE:-}" ]]; then
  nodes=$SLURM_NNODES
  trainer=(--trainer.devices "${SLURM_NTASKS_PER_NODE%%(*}")
elif [[ $nodes -gt 1 ]]; then
  for name in MASTER_ADDR MASTER_PORT NODE_RANK; do
    [[ -n "${!name:-}" ]] || fail "NUM_NODES is $nodes but $name is not set"
  done
  [[ $NODE_RANK -lt $nodes ]] || fail "NODE_RANK $NODE_RANK is no rank of NUM_NODES $nodes machines (0 to $((nodes - 1)))"
fi

command=("$python" scripts/train.py fit --config configs/image_tokenizer/base.yaml
  --config "configs/image_tokenizer/$config.yaml" --trainer.num_nodes "$nodes"
  "${trainer[@]}" "${data[@]}" "$@")
echo "machine ${NODE_RANK:-${SLURM_NODEID:-0}} of $nodes on $(hostname), about to run:" >&2
printf '  %q' "${command[@]}" >&2; echo >&2
exec "${command[@]}"

#!/usr/bin/env bash
# Start an ImageNet training on one or several machines. Called by run_B_128.sh, run_AR_B.sh and their like.
usage="usage: run_B_128.sh [MASTER_ADDR MASTER_PORT NODE_RANK] [--any.flag.of.the.config value ...]
   or: scripts/launch.sh CONFIG_NAME ..., where a CONFIG_NAME.yaml in configs/image_tokenizer or configs/generators is
       a recipe

One machine, all visible GPUs (--trainer.devices N for N processes):
    IMAGENET_ROOT=/data/imagenet bash run_B_128.sh
Four machines, one command on each, NODE_RANK 0 to 3:
    NUM_NODES=4 IMAGENET_ROOT=/data/imagenet bash run_B_128.sh 10.0.0.1 29500 NODE_RANK
    (or with MASTER_ADDR, MASTER_PORT and NODE_RANK in the environment)
    If a host's name means 127.0.0.1 to itself: GLOO_SOCKET_IFNAME=eth0, the interface that reaches MASTER_ADDR.
SLURM, one task a GPU, each of which sees all GPUs of its machine (not --gpus-per-task, which hides the others):
    srun --kill-on-bad-exit=1 --nodes 4 --ntasks-per-node 8 --gpus-per-node 8 bash run_B_128.sh
Start a run or continue it from its newest whole checkpoint:
    bash run_B_128.sh --ckpt_path last
SIGTERM and SIGUSR1 save it and end it with exit code 75: run the same command again (SLURM: docs/reliability.md).

IMAGENET_ROOT (default data/imagenet) holds train/<class>/*.JPEG and val/<class>/*.JPEG.
TOKENIZER is the checkpoint of the tokenizer on whose tokens a generator is trained (run_AR_B.sh, run_masked.sh, ...).
PYTHON chooses the interpreter (default .venv/bin/python of the repository if there is one, else python)."
set -euo pipefail
fail() { echo "error: $*" >&2; exit 2; }

for word in "$@"; do
  case "$word" in -h|--help) echo "$usage"; exit 0 ;; esac
done
root=$(cd "$(dirname "$0")/.." && pwd)
folder=
for room in image_tokenizer generators; do
  [[ $# -gt 0 && -f "$root/configs/$room/$1.yaml" ]] && folder=$root/configs/$room && break
done
[[ -n "$folder" ]] || fail "expected the name of a file in configs/image_tokenizer or configs/generators, got:" \
  "${1:-nothing}"$'\n'"$usage"
config=$1; shift
if [[ $# -gt 0 && "$1" != -* ]]; then
  [[ $# -ge 3 && "$2" =~ ^[0-9]+$ && "$3" =~ ^[0-9]+$ ]] ||
    fail "expected MASTER_ADDR MASTER_PORT NODE_RANK before the flags, got: $*"$'\n'"$usage"
  export MASTER_ADDR=$1 MASTER_PORT=$2 NODE_RANK=$3; shift 3
  [[ -n "${NUM_NODES:-}" ]] || fail "MASTER_ADDR is given but not NUM_NODES: how many machines take part?"
fi
if [[ -n "${SLURM_PROCID:-}" && "${SLURM_NTASKS:-1}" -gt 1 && -z "${SLURM_NTASKS_PER_NODE:-}" ]]; then
  fail "srun runs $SLURM_NTASKS tasks, but without --ntasks-per-node each of them would train alone: add it"
fi

python=${PYTHON:-$([[ -x "$root/.venv/bin/python" ]] && echo "$root/.venv/bin/python" || echo python)}
"$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("open_magvit2") is None)' 2>/dev/null ||
  fail "$python cannot import open_magvit2: run 'pip install -r requirements.txt', or set PYTHON"

# Early and clear refusals; flags that replace what is checked switch its check off.
flags=" $* "
command=("$python" "$root/scripts/train.py" fit --config "$folder/base.yaml" --config "$folder/$config.yaml"
  --trainer.logger.init_args.save_dir "$root/outputs")  # `last` finds the run from any folder
if [[ "$folder" == */generators && ( -n "${TOKENIZER:-}" || "$flags" != *" --model.init_args.tokenizer"* ) ]]; then
  [[ -f "${TOKENIZER:-}" ]] ||
    fail "no tokenizer at ${TOKENIZER:-(not set)}: set TOKENIZER to a checkpoint such as imagenet_256_L.ckpt"
  command+=(--model.init_args.tokenizer.init_args.path "$TOKENIZER")
fi
imagenet=${IMAGENET_ROOT:-data/imagenet}
if [[ -n "${IMAGENET_ROOT:-}" || ( "$flags" != *" --data"* && "$flags" != *" --config "* ) ]]; then
  for split in train val; do
    [[ -d "$imagenet/$split" ]] ||
      fail "no ImageNet at $imagenet/$split: set IMAGENET_ROOT to the folder that holds train/<class>/ and val/<class>/"
  done
  command+=(--data.init_args.train.init_args.root "$imagenet/train"
    --data.init_args.validation.init_args.root "$imagenet/val")
fi
gpus=0
if [[ "$flags" != *"--trainer.accelerator"* && "$flags" != *" --config "* ]]; then
  gpus=$("$python" -c "import torch; print(torch.cuda.device_count())")
  [[ $gpus -gt 0 ]] ||
    fail "PyTorch sees no GPU (check nvidia-smi and CUDA_VISIBLE_DEVICES), or pass --trainer.accelerator cpu"
fi

nodes=${NUM_NODES:-1}
devices=$gpus
[[ "$flags" =~ \ --trainer\.devices[\ =]([0-9]+)\  ]] && devices=${BASH_REMATCH[1]}
launcher=()
if [[ -n "${SLURM_PROCID:-}" && -n "${SLURM_NTASKS_PER_NODE:-}" ]]; then
  tasks=${SLURM_NTASKS_PER_NODE%%(*}
  nodes=$SLURM_NNODES
  [[ $gpus -ne 1 || $tasks -eq 1 ]] ||
    fail "SLURM starts $tasks tasks a machine, but each sees 1 GPU and Lightning expects to see all $tasks: use" \
      "--gpus-per-node $tasks instead of --gpus-per-task, or add --gpu-bind=none"
  [[ $gpus -eq 0 || $gpus -eq $tasks ]] ||
    fail "SLURM starts $tasks task(s) a machine, but $gpus GPUs are visible: use one task a GPU"
  command+=(--trainer.devices "$tasks")
else
  if [[ $nodes -gt 1 ]]; then
    for name in MASTER_ADDR MASTER_PORT NODE_RANK; do
      [[ -n "${!name:-}" ]] || fail "NUM_NODES is $nodes but $name is not set"
    done
    [[ $NODE_RANK -lt $nodes ]] ||
      fail "NODE_RANK $NODE_RANK is no rank of NUM_NODES $nodes machines (0 to $((nodes - 1)))"
  fi
  if [[ $devices -gt 1 || ( $devices -gt 0 && $nodes -gt 1 ) ]]; then
    launcher=("$python" "$root/src/open_magvit2/training/launch.py" --processes "$devices" --nodes "$nodes")
    command+=(--trainer.devices "$devices")
  fi
fi

command+=(--trainer.num_nodes "$nodes" "$@")
if [[ ${SLURM_PROCID:-0} -eq 0 ]]; then
  echo "machine ${NODE_RANK:-0} of $nodes on $(hostname), about to run:" >&2
  echo "  $(printf '%q ' ${launcher[@]+"${launcher[@]}"} "${command[@]}")" >&2
fi
exec ${launcher[@]+"${launcher[@]}"} "${command[@]}"

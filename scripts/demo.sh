#!/usr/bin/env bash
# From nothing to a trained tokenizer, on a CPU in ten minutes after the set-up: train on built-in images, evaluate on
# held-out ones, draw them. Leaves outputs/demo/{checkpoints/last.ckpt, results.json, reconstructions.png}.
# Arguments go to the training, e.g. bash scripts/demo.sh --trainer.max_steps 100
source "$(dirname "$0")/setup.sh"
output=${DEMO_OUTPUT:-outputs/demo}
training=$output/training  # becomes the result when it is complete: a mistake in the arguments leaves an older one alone
rm -rf "$training"
"$python" scripts/train.py fit --config configs/image_tokenizer/base.yaml --config configs/image_tokenizer/demo.yaml \
  --checkpoint.dirpath "$training/checkpoints" --trainer.logger.init_args.save_dir "$training" "$@"
[ -f "$training/checkpoints/last.ckpt" ] || exit 0  # --help or --print_config
rm -rf "$output/checkpoints" "$output/log"
mv "$training"/* "$output"
rmdir "$training"
checkpoint=$output/checkpoints/last.ckpt
"$python" scripts/evaluate.py --checkpoint "$checkpoint" --built-in 256 --image-size 48 \
  --metrics psnr,ssim,codebook_usage --output "$output"
"$python" scripts/reconstruct.py --checkpoint "$checkpoint" --built-in 16 --size 48 --output "$output/reconstructions.png"
echo
echo "checkpoint    $checkpoint"
echo "results       $output/results.json"
echo "look at       $output/reconstructions.png   (originals above reconstructions)"

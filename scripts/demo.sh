#!/usr/bin/env bash
usage="usage: bash scripts/demo.sh [--stage1-only] [--any.flag.of.the.trainings value ...]

From nothing to generated images on two CPU cores, in a quarter of an hour after the set-up: train a tokenizer on built-in
images, evaluate it on held-out ones, tokenize images of four kinds, train a generator on the tokens, draw samples of each.

    --stage1-only    stop after the tokenizer's evaluation, after five minutes
    --help           this text

Other arguments go to both trainings, with --stage1-only to the tokenizer's alone, e.g. --trainer.max_steps 100.
DEMO_OUTPUT is the folder of the results (default outputs/demo):
    checkpoints/last.ckpt, results.json, report.html, reconstructions.png      the tokenizer
    generator/checkpoints/last.ckpt, tokens/, samples/, samples.png            the generator
DEMO_IMAGES is the number of images to tokenize (default 20000), DEMO_THREADS that of the generator's threads (default 2)."
stage1_only=
flags=()
for word in "$@"; do
  case "$word" in
    -h|--help) echo "$usage"; exit 0 ;;
    --stage1-only) stage1_only=yes ;;
    *) flags+=("$word") ;;
  esac
done
source "$(dirname "$0")/setup.sh"
output=${DEMO_OUTPUT:-outputs/demo}
checkpoint=$output/checkpoints/last.ckpt generator=$output/generator/checkpoints/last.ckpt
kinds=(landscape skyline garden marble)

# Stage I. A result is moved to its place when it is complete: a mistake in the arguments leaves an older one alone.
training=$output/training
rm -rf "$training"
"$python" scripts/train.py fit --config configs/image_tokenizer/base.yaml --config configs/image_tokenizer/demo.yaml \
  --checkpoint.dirpath "$training/checkpoints" --trainer.logger.init_args.save_dir "$training" "${flags[@]}"
[ -f "$training/checkpoints/last.ckpt" ] || exit 0  # --print_config
rm -rf "$output/checkpoints" "$output/log"
mv "$training"/* "$output"
rmdir "$training"
"$python" scripts/evaluate.py --checkpoint "$checkpoint" --built-in 256 --image-size 48 \
  --metrics psnr,ssim,codebook_usage --output "$output"
"$python" scripts/reconstruct.py --checkpoint "$checkpoint" --built-in 16 --size 48 --output "$output/reconstructions.png"

# Stage II, on smaller images, which have fewer tokens.
if [ -z "$stage1_only" ]; then
  rm -rf "$output/tokens" "$output/generator" "$output/samples" "$output/samples.png"
  for split in train validation; do
    [ $split = train ] && number=${DEMO_IMAGES:-20000} || number=256
    "$python" scripts/tokenize_images.py --checkpoint "$checkpoint" --image-size 24 --output "$output/tokens/$split" \
      --batch-size 64 --num-workers 1 --source open_magvit2.data.sources.synthetic.SyntheticImages \
      --source-args num_images="$number" size=24 split=$split scenes="[$(IFS=,; echo "${kinds[*]}")]"
  done
  # Its matrices are large enough for two threads. Passive ones do not spin where another program wants the core.
  OMP_NUM_THREADS=${DEMO_THREADS:-2} OMP_WAIT_POLICY=passive "$python" scripts/train.py fit \
    --config configs/generators/base.yaml --config configs/generators/demo.yaml \
    --model.init_args.tokenizer.init_args.path "$checkpoint" \
    --data.init_args.train "$output/tokens/train" --data.init_args.validation "$output/tokens/validation" \
    --checkpoint.dirpath "$output/generator/checkpoints" --trainer.logger.init_args.save_dir "$output/generator" \
    "${flags[@]}"
  printf '%s\n' "${kinds[@]}" > "$output/tokens/classes.txt"
  "$python" scripts/sample.py --generator "$generator" --classes "${kinds[@]}" \
    --class-names "$output/tokens/classes.txt" --per-class 8 --guidance 4 --schedule linear --temperature 0.9 --output "$output/samples"
  cp "$output/samples/grid.png" "$output/samples.png"
fi
echo
echo "tokenizer     $checkpoint"
echo "results       $output/results.json, $output/report.html"
echo "look at       $output/reconstructions.png   (originals above reconstructions)"
[ -n "$stage1_only" ] || echo "generator     $generator"
[ -n "$stage1_only" ] || echo "look at       $output/samples.png           (a row of generated images of each kind)"

#!/usr/bin/env bash
# Train the L tokenizer at 128 x 128 (8x downsampling). How to use one or many machines: scripts/launch.sh --help
exec bash "$(dirname "$0")/scripts/launch.sh" imagenet_L_128 "$@"

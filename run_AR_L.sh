#!/usr/bin/env bash
# Train the autoregressive generator L on the tokens of a 256 x 256 tokenizer. How to use one or many machines: scripts/launch.sh --help
exec bash "$(dirname "$0")/scripts/launch.sh" AR_L "$@"

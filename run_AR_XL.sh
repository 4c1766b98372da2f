#!/usr/bin/env bash
# Train the autoregressive generator XL, its weights sharded over the devices. How to use one or many machines: scripts/launch.sh --help
exec bash "$(dirname "$0")/scripts/launch.sh" AR_XL "$@"

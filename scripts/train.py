#!/usr/bin/env python
"""Train or validate a model: scripts/train.py fit --config configs/image_tokenizer/base.yaml [--config ...]"""

from open_magvit2.training.cli import main

if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Train or validate a model: scripts/train.py fit --config configs/image_tokenizer/base.yaml [--config ...]"""

import gc

if __name__ == "__main__":
    gc.disable()  # importing makes many objects and no garbage: looking for some takes a third of the start-up time
    from open_magvit2.training.cli import main

    gc.freeze()  # nor does anything imported ever become garbage
    gc.enable()
    main()

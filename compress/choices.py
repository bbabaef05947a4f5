"""What a job may choose among by name, and the paper's own number where there is one."""

from __future__ import annotations

from typing import Literal

DEVICE = "EDGECOMPRESS_DEVICE"
"""The environment variable that names where to compute: `cpu`, `cuda` or `cuda:1`; unset: a GPU
where there is one."""

Precision = Literal["auto", "float32", "bfloat16"]
"""Of multiplications while training."""

CamKind = Literal["grad", "plain"]
"""How a base's activation map is drawn."""

CAM_THRESHOLD = 0.5
"""EdgeCompress: what is above min + 0.5 (max - min) of an activation map is foreground."""

BoxLoss = Literal["l1+giou", "l1+ciou", "l1+iou", "giou", "ciou", "mse"]
"""What a foreground predictor learns by."""

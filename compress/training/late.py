"""Numbers that a GPU is still computing, read when it has them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Late:
    """A step's mean loss: to ask for it at once would keep the next step from being prepared.

    Attributes:
        value: a scalar in the CPU's memory.
        ready: reached by the GPU once the value is there; None: it is.
        photos: of the step.
    """

    value: Tensor
    ready: torch.cuda.Event | None
    photos: int

    @staticmethod
    def of(value: Tensor, photos: int) -> Late:
        """Of a scalar wherever it lies; nobody waits for it."""
        if value.device.type == "cpu":
            return Late(value, None, photos)
        copy = torch.empty((), dtype=value.dtype, pin_memory=True)
        copy.copy_(value, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return Late(copy, ready, photos)

    def read(self) -> float:
        """The number; waits until it is there."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.value.item()

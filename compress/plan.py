"""The two ways to a cascade folder, and what a job file says for each.

`pretrained_cascade` takes weights that packages ship; `compress_photos` trains on the user's
photos.
"""

from .cascading.packaged import pretrained_cascade
from .config import CompressConfig, PretrainedConfig
from .steps import compress_photos

__all__ = ["CompressConfig", "PretrainedConfig", "compress_photos", "pretrained_cascade"]

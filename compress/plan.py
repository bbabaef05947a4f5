"""The two ways to a cascade folder, and what a job file says for each.

`pretrained_cascade` takes weights that packages ship; `compress_photos` trains on the user's
photos.
"""

from .config import CompressConfig, PretrainedConfig
from .packaged import pretrained_cascade
from .steps import compress_photos

__all__ = ["CompressConfig", "PretrainedConfig", "compress_photos", "pretrained_cascade"]

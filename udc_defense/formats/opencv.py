"""OpenCV's decoders, for what Pillow does not read at full depth."""

from __future__ import annotations

import os

import numpy as np


def decode_bytes(data: bytes) -> np.ndarray | None:
    """The pixels at full depth, channels as stored (BGR); None where it cannot."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # read when OpenCV is first imported
    import cv2

    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None

"""Camera frames to the square pictures that episodes store and encoders see."""

import cv2
import numpy as np


def resize_frame(frame: np.ndarray, size: int) -> np.ndarray:
    """Cut ``frame`` (H, W, 3) uint8 to its central square and resize it to (size, size, 3) uint8.

    Area averaging when shrinking, bilinear when enlarging. Collection and the encoder node both go
    through here, so a recorded picture and a live one have identical pixels. Raises ValueError for
    another shape or dtype.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
        raise ValueError(f"a frame is uint8 (H, W, 3), this one is {frame.dtype} {frame.shape}")
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frame[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(square)
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return cv2.resize(square, (size, size), interpolation=interpolation)

"""Image messages to pixels: pure, for whatever may come over a wire."""

import cv2
import numpy as np

MAX_SIDE = 16384
# encoding -> bytes a pixel, and where red, green and blue lie in them
ENCODINGS = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}


class ImageRejectedError(ValueError):
    """An image message that cannot be used; the text says why and what would do."""


def decode_image(width: int, height: int, encoding: str, step: int, is_bigendian: bool, data) -> np.ndarray:
    """Return RGB pixels, uint8 (height, width, 3), of a sensor_msgs/Image's fields.

    ``step`` is the length of a row in bytes, padding included. Raises ImageRejectedError.
    """
    if encoding not in ENCODINGS:
        raise ImageRejectedError(f"its encoding is {encoding!r}: publish one of {', '.join(ENCODINGS)}")
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ImageRejectedError(f"its size is {width} x {height}: it must be 1 to {MAX_SIDE} pixels a side")
    if is_bigendian:
        raise ImageRejectedError("it is marked big-endian: publish little-endian images")
    channels, order = ENCODINGS[encoding]
    if step < width * channels:
        raise ImageRejectedError(
            f"step is {step} bytes, a row of {width} {encoding} pixels has {width * channels}"
        )
    values = np.frombuffer(data, np.uint8)
    if values.size < step * (height - 1) + width * channels or values.size > step * height:
        raise ImageRejectedError(
            f"it has {values.size} bytes of data, {height} rows of {step} are {step * height}"
        )
    rows = np.lib.stride_tricks.as_strided(
        values, (height, width, channels), (step, channels, 1), writeable=False
    )
    return np.ascontiguousarray(rows[..., order])


def decode_compressed(data) -> np.ndarray:
    """Return RGB pixels, uint8 (H, W, 3), of a sensor_msgs/CompressedImage's data (JPEG or PNG).

    Raises ImageRejectedError.
    """
    values = np.frombuffer(data, np.uint8)
    try:
        pixels = cv2.imdecode(values, cv2.IMREAD_COLOR_RGB) if values.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageRejectedError(f"its {values.size} bytes are neither a JPEG nor a PNG: check the publisher")
    return pixels


def check_frame_size(frame: tuple, first: tuple | None) -> None:
    """Raise ImageRejectedError when a camera's frame (H, W, 3) has another shape than its first one.

    Another resolution is resized, another shape shows another part of the world.
    """
    if first is not None and not _same_shape(frame, first):
        raise ImageRejectedError(
            f"it is {frame[1]} x {frame[0]}, the camera began with {first[1]} x {first[0]}: set the camera "
            "back, or activate encoder_node anew"
        )


def check_goal_size(goal: tuple, camera: tuple | None) -> None:
    """Raise ImageRejectedError when a goal of shape (H, W, 3) cannot be a view of the camera's frames.

    Before the first frame (``camera`` None) any goal is taken.
    """
    if camera is not None and not _same_shape(goal, camera):
        raise ImageRejectedError(
            f"it is {goal[1]} x {goal[0]}, the camera's frames are {camera[1]} x {camera[0]}: "
            "take the goal image with the same camera"
        )


def _same_shape(one: tuple, other: tuple) -> bool:
    """Whether two sizes (H, W, ...) have the same proportions, up to a pixel."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one[:2], *other[:2])


class Complaints:
    """Says each trouble once: again only after it changed or went away."""

    def __init__(self):
        self._last: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    def fine(self, topic: str) -> bool:
        """Note that ``topic`` is all right; return whether it was not before."""
        return self._last.pop(topic, None) is not None

    def trouble(self, topic: str, reason: str) -> bool:
        """Count a trouble; return whether it is new and should be said."""
        self.counts[topic] = self.counts.get(topic, 0) + 1
        new = self._last.get(topic) != reason
        self._last[topic] = reason
        return new

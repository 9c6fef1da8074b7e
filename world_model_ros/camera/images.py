"""Image messages to pixels; any content of a message is either decoded or rejected with a reason."""

import math
import re
import struct

import cv2
import numpy as np

MAX_SIDE = 16384
MAX_PIXELS = 64 << 20  # of a compressed image: a few bytes can claim gigabytes
# encoding -> bytes a pixel, and where red, green and blue lie in them
ENCODINGS = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}


class ImageRejectedError(ValueError):
    """An image message that cannot be used; the text has the reason and the remedy."""


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
    size = _claimed_size(values.tobytes())
    if size is None:
        raise ImageRejectedError(f"its {values.size} bytes are neither a JPEG nor a PNG: check the publisher")
    width, height = size
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageRejectedError(
            f"its header claims {width} x {height} pixels: at most {MAX_PIXELS >> 20} million are decoded"
        )
    try:
        pixels = cv2.imdecode(values, cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageRejectedError(f"its {values.size} bytes are a damaged JPEG or PNG: check the publisher")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # OpenCV before 4.11 decodes to BGR alone


# Frame header of a JPEG, whichever coding: length, precision, height, width; wherever one may begin.
_JPEG_FRAME = re.compile(rb"(?=\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..[\x08\x0c](..)(..))", re.DOTALL)
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def _claimed_size(data: bytes) -> tuple[int, int] | None:
    """Return the (width, height) that the header of a PNG or JPEG claims, None for anything else.

    A JPEG may hold previews and bytes that look like a frame header: the largest counts.
    """
    if data.startswith(_PNG_START) and len(data) >= len(_PNG_START) + 8:
        return struct.unpack_from(">II", data, len(_PNG_START))
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    sizes = [struct.unpack(">HH", m[1] + m[2])[::-1] for m in _JPEG_FRAME.finditer(data)]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


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


def check_goal_norm(norm: float, usual: tuple[float, float] | None) -> None:
    """Raise ImageRejectedError when a goal's latent norm is not finite or outside ``usual`` (low, high).

    ``usual`` is None where the checkpoint has no range.
    """
    if not math.isfinite(norm):
        raise ImageRejectedError("its latent is not finite: check the checkpoint")
    if usual is None or usual[0] <= norm <= usual[1]:
        return
    bound = usual[norm > usual[1]]
    digits = next((d for d in range(1, 9) if f"{norm:.{d}f}" != f"{bound:.{d}f}"), 9)
    low, high = (f"{value:.{digits}f}" for value in usual)
    raise ImageRejectedError(
        f"the picture is like none seen in training (latent norm {norm:.{digits}f}, {low} to {high} is "
        "usual): take it with the robot's own camera, in the light that the model knows"
    )


def _same_shape(one: tuple, other: tuple) -> bool:
    """Whether two sizes (H, W, ...) have the same proportions, up to a pixel."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one[:2], *other[:2])


_NUMBER = re.compile(r"\b\d+(\.\d+)?\b")


class Complaints:
    """Tells which troubles are new, so that each is logged once until it changes or ends."""

    def __init__(self):
        self._last: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    def fine(self, topic: str) -> bool:
        """Note that ``topic`` is all right; return whether it was not before."""
        return self._last.pop(topic, None) is not None

    def trouble(self, topic: str, reason: str) -> bool:
        """Count a trouble; return whether it is new and should be logged.

        Other numbers in the same sentence are no other trouble: ages differ from message to message.
        """
        self.counts[topic] = self.counts.get(topic, 0) + 1
        kind = _NUMBER.sub("", reason)
        new = self._last.get(topic) != kind
        self._last[topic] = kind
        return new

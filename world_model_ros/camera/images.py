"""Image messages to pixels; any content of a message is either decoded or rejected with a reason."""

import math
import re
import reprlib
import struct
from typing import NamedTuple

import cv2
import numpy as np

MAX_SIDE = 16384
LEAST_CONTRAST = 3.0  # standard deviation of a goal picture, of 255, in one of the colours at least
MAX_PIXELS = 64 << 20  # of a compressed image: a few bytes can claim gigabytes


class Encoding(NamedTuple):
    """How the bytes of an encoding become RGB."""

    size: int  # bytes of a pixel in its row
    conversion: int | None  # of OpenCV, None for what is RGB
    multiple: tuple[int, int] = (1, 1)  # that the width and the height must be
    wide: bool = False  # 16 bits a sample
    extra: bool = False  # rows of half-sized color follow those of brightness


# Numeric encodings name no order: theirs is OpenCV's, as in cv_bridge and RViz. YUV is that of BT.601 in its
# limited range, as cameras give it.
ENCODINGS = {
    "rgb8": Encoding(3, None),
    "bgr8": Encoding(3, cv2.COLOR_BGR2RGB),
    "rgba8": Encoding(4, cv2.COLOR_RGBA2RGB),
    "bgra8": Encoding(4, cv2.COLOR_BGRA2RGB),
    "mono8": Encoding(1, cv2.COLOR_GRAY2RGB),
    "yuv422": Encoding(2, cv2.COLOR_YUV2RGB_UYVY, (2, 1)),
    "yuv422_yuy2": Encoding(2, cv2.COLOR_YUV2RGB_YUY2, (2, 1)),
    "nv12": Encoding(1, cv2.COLOR_YUV2RGB_NV12, (2, 2), extra=True),
    "nv21": Encoding(1, cv2.COLOR_YUV2RGB_NV21, (2, 2), extra=True),
    "bayer_rggb8": Encoding(1, cv2.COLOR_BayerRGGB2RGB, (2, 2)),
    "bayer_bggr8": Encoding(1, cv2.COLOR_BayerBGGR2RGB, (2, 2)),
    "bayer_gbrg8": Encoding(1, cv2.COLOR_BayerGBRG2RGB, (2, 2)),
    "bayer_grbg8": Encoding(1, cv2.COLOR_BayerGRBG2RGB, (2, 2)),
}
_NAMED = "rgb8, bgr8, rgba8, bgra8, mono8, mono16, yuv422, yuv422_yuy2, nv12, nv21 or bayer_rggb8"
ENCODINGS |= {
    f"{name[:-1]}16": encoding._replace(size=2 * encoding.size, wide=True)
    for name, encoding in ENCODINGS.items()
    if name.endswith("8")
}
ENCODINGS |= {
    name: ENCODINGS[same]
    for name, same in (
        ("uyvy", "yuv422"),
        ("yuyv", "yuv422_yuy2"),
        ("8UC1", "mono8"),
        ("8UC3", "bgr8"),
        ("8UC4", "bgra8"),
    )
}
_DEPTH = re.compile(r"(16|32|64)[USF]C1")
_DEPTH_TOPIC = "this is a depth topic, give encoder_node the topic of a color camera"
_FEW_BITS = 16  # of 256: below it all high bytes are those of 12-bit values, or of a black picture


class ImageRejectedError(ValueError):
    """An image message that cannot be used; the text has the reason and the remedy."""


def decode_image(width: int, height: int, encoding: str, step: int, is_bigendian: bool, data) -> np.ndarray:
    """Return RGB pixels, uint8 (height, width, 3), of a sensor_msgs/Image's fields.

    ``step`` is the length of a row in bytes, padding included. Where the data is just as long as the pixels,
    rows have no padding whatever ``step`` says: some drivers leave it at zero. 16-bit samples, in the order
    that ``is_bigendian`` tells, become their high byte; for 8-bit ones it means nothing. Pixels of rgb8 are a
    read-only view of ``data``. Raises ImageRejectedError.
    """
    form = ENCODINGS.get(encoding)
    if form is None:
        remedy = _DEPTH_TOPIC if _DEPTH.fullmatch(encoding) else f"publish one of {_NAMED}"
        raise ImageRejectedError(f"its encoding is {reprlib.repr(encoding)}: {remedy}")
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ImageRejectedError(f"its size is {width} x {height}: it must be 1 to {MAX_SIDE} pixels a side")
    if width % form.multiple[0] or height % form.multiple[1]:
        needed = "an even width" if form.multiple == (2, 1) else "an even width and height"
        raise ImageRejectedError(f"its size is {width} x {height}: {encoding} needs {needed}")
    length, rows = width * form.size, height * 3 // 2 if form.extra else height
    values = np.frombuffer(data, np.uint8)
    if not step or values.size == rows * length:
        step = length
    if step < length:
        raise ImageRejectedError(
            f"step is {step} bytes, a row of {width} {encoding} pixels has {length}: let the driver set it"
        )
    if not step * (rows - 1) + length <= values.size <= step * rows:
        short = values.size < step * rows
        remedy = "the end is missing, check the driver" if short else "correct its size, step or encoding"
        raise ImageRejectedError(
            f"it has {values.size} bytes of data, {rows} rows of {step} are {step * rows}: {remedy}"
        )
    lines = np.lib.stride_tricks.as_strided(values, (rows, length), (step, 1), writeable=False)
    if form.wide:
        lines = _high_bytes(lines, is_bigendian)
    if form.conversion is None:
        return np.ascontiguousarray(lines).reshape(rows, width, 3)
    channels = lines.shape[1] // width
    if channels > 1:  # the rows themselves stay where they are: no copy
        lines = np.lib.stride_tricks.as_strided(
            lines, (rows, width, channels), (lines.strides[0], channels, 1), writeable=False
        )
    return cv2.cvtColor(lines, form.conversion)


def _high_bytes(lines: np.ndarray, is_bigendian: bool) -> np.ndarray:
    """Return the high byte of each 16-bit sample in rows of bytes."""
    high = np.ascontiguousarray(lines[:, 0 if is_bigendian else 1 :: 2])
    if high.max() < _FEW_BITS:
        raise ImageRejectedError(
            f"none of its 16-bit values is above {_FEW_BITS * 256 - 1}: the picture is black, or its values "
            "have 12 bits or fewer: publish 8 bits, or values that are scaled to 16 bits"
        )
    return high


def decode_compressed(data, stated: str = "") -> np.ndarray:
    """Return RGB pixels, uint8 (H, W, 3), of a sensor_msgs/CompressedImage's data (JPEG or PNG).

    ``stated`` is the message's ``format``. A file tells the order of its colors itself, so "rgb8; jpeg
    compressed rgb8" and "rgb8; jpeg compressed bgr8" are the same; a Bayer mosaic that was compressed as it
    is becomes RGB. The picture is turned upright as its EXIF orientation tells, as viewers and
    compressed_image_transport do. Raises ImageRejectedError.
    """
    values = np.frombuffer(data, np.uint8)
    if "compresseddepth" in stated.lower():
        raise ImageRejectedError(f"its format is {reprlib.repr(stated)}: {_DEPTH_TOPIC}")
    start = values[:_PNG_COLOR].tobytes()
    if start.startswith(_PNG_START) and start[_PNG_BITS : _PNG_BITS + 1] == b"\x10":
        if start[_PNG_BITS + 1 :] == b"\0" and not stated.startswith(("mono", "bayer")):
            raise ImageRejectedError(f"it is a PNG of 16-bit values: {_DEPTH_TOPIC}")
        raise ImageRejectedError("it is a PNG of 16-bit values: publish images of 8 bits")
    size = _claimed_size(values.tobytes())
    if size is None:
        what = f" (format {reprlib.repr(stated)})" if stated else ""
        raise ImageRejectedError(
            f"its {values.size} bytes are neither a JPEG nor a PNG{what}: let the publisher compress to JPEG"
        )
    width, height = size
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageRejectedError(
            f"its header claims {width} x {height} pixels: at most {MAX_PIXELS >> 20} million are decoded"
        )
    source, _, target = stated.partition(";")
    mosaic = source in ENCODINGS and source.startswith("bayer_") and not _COLOR.search(target)
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION if mosaic else cv2.IMREAD_COLOR
    try:
        pixels = cv2.imdecode(values, flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageRejectedError(f"its {values.size} bytes are a damaged JPEG or PNG: check the publisher")
    if mosaic:
        height, width = pixels.shape
        return decode_image(width, height, source.replace("16", "8"), width, False, pixels)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)  # OpenCV before 4.11 decodes to BGR alone


# Frame header of a JPEG, whichever coding, wherever one may begin: after it length, precision, height, width.
_JPEG_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]")
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_BITS = len(_PNG_START) + 8  # where its bits a sample are, and behind them its kind of color
_PNG_COLOR = _PNG_BITS + 2
_COLOR = re.compile("compressed (bgr|rgb)")  # a mosaic that was turned into colors before


def _claimed_size(data: bytes) -> tuple[int, int] | None:
    """Return the (width, height) that the header of a PNG or JPEG claims, None for anything else.

    A JPEG may hold previews and bytes that look like a frame header: the largest counts.
    """
    if data.startswith(_PNG_START) and len(data) >= len(_PNG_START) + 8:
        return struct.unpack_from(">II", data, len(_PNG_START))
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    headers = (data[m.end() : m.end() + 7] for m in _JPEG_FRAME.finditer(data))
    sizes = [struct.unpack(">HH", h[3:])[::-1] for h in headers if len(h) == 7 and h[2] in (8, 12)]
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

    Before the first frame (``camera`` None) any goal is taken. A square is always taken: the model sees the
    central square of a frame, and so it is stored in episodes.
    """
    if camera is not None and goal[0] != goal[1] and not _same_shape(goal, camera):
        raise ImageRejectedError(
            f"it is {goal[1]} x {goal[0]}, the camera's frames are {camera[1]} x {camera[0]}: "
            "take the goal image with the same camera"
        )


def check_goal_contrast(pixels: np.ndarray) -> None:
    """Raise ImageRejectedError when a goal (H, W, 3) uint8 has one colour everywhere, up to noise."""
    if pixels.std(axis=(0, 1)).max() < LEAST_CONTRAST:
        colour = ", ".join(f"{value:.0f}" for value in pixels.mean(axis=(0, 1)))
        raise ImageRejectedError(
            f"it has one colour everywhere (red, green, blue {colour} of 255): take the picture with the "
            "robot's own camera, uncovered, with the goal in view"
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

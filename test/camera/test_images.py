import math
import re
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from world_model_ros.camera.images import (
    ENCODINGS,
    Complaints,
    ImageRejectedError,
    check_frame_size,
    check_goal_contrast,
    check_goal_norm,
    check_goal_size,
    decode_compressed,
    decode_image,
)

RGB = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)


def known_picture(height=24, width=32):
    """Smooth colors, the same in every block of 2 x 2 pixels: half-sized color loses nothing."""
    y, x = np.mgrid[0 : height // 2, 0 : width // 2]
    small = np.stack([40 + 8 * x, 200 - 9 * y, 60 + 5 * x + 6 * y], axis=-1).astype(np.uint8)
    return small.repeat(2, 0).repeat(2, 1)


def planes(rgb):
    """Return Y (H, W), U and V (H/2, W/2) by OpenCV's own conversion."""
    height, width = rgb.shape[:2]
    flat = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420).reshape(-1)
    size = height * width
    half = (height // 2, width // 2)
    return (
        flat[:size].reshape(height, width),
        flat[size : size * 5 // 4].reshape(half),
        flat[size * 5 // 4 :].reshape(half),
    )


def yuv422(rgb, order):
    y, u, v = planes(rgb)
    u, v = u.repeat(2, 0), v.repeat(2, 0)
    parts = {"U": u, "V": v, "Y": y[:, ::2], "y": y[:, 1::2]}
    return np.stack([parts[letter] for letter in order], axis=-1).reshape(len(y), -1)


def nv(rgb, first_v):
    y, u, v = planes(rgb)
    pairs = np.stack([v, u] if first_v else [u, v], axis=-1).reshape(len(u), -1)
    return np.concatenate([y, pairs])


def mosaic(rgb, pattern):
    """``pattern``: the colors of the four pixels of a block, row by row."""
    raw = np.zeros(rgb.shape[:2], np.uint8)
    for at, color in enumerate(pattern):
        row, column = divmod(at, 2)
        raw[row::2, column::2] = rgb[row::2, column::2, "rgb".index(color)]
    return raw


def gray(rgb):
    return np.repeat(rgb[..., :1], 3, axis=2)


def alpha(rgb):
    return np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])


# encoding -> rows of bytes (rows, bytes) of a picture, and how much its pixels may be off
FORMS = {
    "rgb8": (lambda rgb: rgb, 0),
    "bgr8": (lambda rgb: rgb[..., ::-1], 0),
    "rgba8": (alpha, 0),
    "bgra8": (lambda rgb: alpha(rgb[..., ::-1]), 0),
    "mono8": (lambda rgb: rgb[..., 0], 0),
    "8UC1": (lambda rgb: rgb[..., 0], 0),
    "8UC3": (lambda rgb: rgb[..., ::-1], 0),
    "8UC4": (lambda rgb: alpha(rgb[..., ::-1]), 0),
    "yuv422": (lambda rgb: yuv422(rgb, "UYVy"), 4),
    "uyvy": (lambda rgb: yuv422(rgb, "UYVy"), 4),
    "yuv422_yuy2": (lambda rgb: yuv422(rgb, "YUyV"), 4),
    "yuyv": (lambda rgb: yuv422(rgb, "YUyV"), 4),
    "nv12": (lambda rgb: nv(rgb, False), 4),
    "nv21": (lambda rgb: nv(rgb, True), 4),
    "bayer_rggb8": (lambda rgb: mosaic(rgb, "rggb"), 12),
    "bayer_bggr8": (lambda rgb: mosaic(rgb, "bggr"), 12),
    "bayer_gbrg8": (lambda rgb: mosaic(rgb, "gbrg"), 12),
    "bayer_grbg8": (lambda rgb: mosaic(rgb, "grbg"), 12),
}


def rows_of(encoding, rgb=None, bigendian=False):
    """Return the rows of bytes of a picture, without padding."""
    rgb = known_picture() if rgb is None else rgb
    if not encoding.endswith("16"):
        rows = FORMS[encoding][0](rgb)
        return np.ascontiguousarray(rows).reshape(len(rows), -1)
    rows = rows_of(f"{encoding[:-2]}8", rgb)
    wide = rows.astype(">u2" if bigendian else "<u2") * 256 + 3
    return wide.astype(">u2" if bigendian else "<u2").view(np.uint8)


def check_pixels(pixels, encoding):
    expected = known_picture()
    base = f"{encoding[:-2]}8" if encoding.endswith("16") else encoding
    if base in ("mono8", "8UC1"):
        expected = gray(expected)
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= FORMS[base][1]


def test_every_encoding_is_tested():
    assert {name for name in ENCODINGS if not name.endswith("16")} == set(FORMS)


@pytest.mark.parametrize("layout", ["padded", "exact", "zero step", "step in pixels", "tight under a step"])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_every_encoding_gives_the_known_picture(encoding, layout):
    rows = rows_of(encoding)
    length = rows.shape[1]
    step = {"padded": length + 5, "zero step": 0, "step in pixels": 32, "tight under a step": length + 64}
    if layout == "padded":
        rows = np.pad(rows, ((0, 0), (0, 5)), constant_values=77)
    pixels = decode_image(32, 24, encoding, step.get(layout, length), False, rows.tobytes())
    check_pixels(pixels, encoding)


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_the_order_of_bytes_counts_for_16_bit_samples_alone(encoding):
    rows = rows_of(encoding, bigendian=True)
    check_pixels(decode_image(32, 24, encoding, rows.shape[1], True, rows.tobytes()), encoding)


def test_16_bit_samples_read_in_the_wrong_order_are_another_picture():
    rows = rows_of("mono16", bigendian=True)
    with pytest.raises(ImageRejectedError, match="none of its 16-bit values is above 4095"):
        decode_image(32, 24, "mono16", 64, False, rows.tobytes())


@pytest.mark.fault
@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bayer_rggb16"])
def test_fault_05_12_bits_in_16_are_refused_with_what_to_publish(encoding):
    values = rows_of(encoding).view("<u2") >> 4
    with pytest.raises(ImageRejectedError, match="12 bits or fewer: publish 8 bits"):
        decode_image(32, 24, encoding, 0, False, values.tobytes())


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "yuyv", "nv12", "mono8"])
def test_a_picture_of_4k_is_converted_in_one_pass_and_rgb_not_at_all(encoding):
    data = np.zeros(2160 * 3840 * 3, np.uint8)[: rows_of(encoding).size * (2160 * 3840) // (24 * 32)]
    tracemalloc.start()
    pixels = decode_image(3840, 2160, encoding, 0, False, data)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.shares_memory(pixels, data) == (encoding == "rgb8")
    # numpy's copies are traced, OpenCV's own result is not everywhere
    assert taken < 1.1 * pixels.nbytes if encoding != "rgb8" else taken < 1e5


def rejected(change, expected):
    fields = {"width": 4, "height": 3, "encoding": "rgb8", "step": 12, "is_bigendian": False}
    fields["data"] = RGB.tobytes()
    with pytest.raises(ImageRejectedError, match=expected):
        decode_image(**(fields | change))


@pytest.mark.fault
@pytest.mark.parametrize("encoding", ["", "RGB8", "\0", "nv24", "32FC3", "x" * 10**6], ids=range(6))
def test_fault_05_a_wrong_encoding_is_rejected_and_the_right_ones_are_named(encoding):
    rejected({"encoding": encoding}, "^.{0,60}publish one of rgb8, bgr8")


@pytest.mark.fault
@pytest.mark.parametrize("encoding", ["32FC1", "16UC1", "16SC1"])
def test_fault_05_a_depth_topic_is_named_as_that(encoding):
    rejected({"encoding": encoding}, f"its encoding is '{encoding}': this is a depth topic")


@pytest.mark.parametrize(
    ("encoding", "width", "height", "expected"),
    [
        ("yuyv", 3, 2, "3 x 2: yuyv needs an even width$"),
        ("nv12", 4, 3, "4 x 3: nv12 needs an even width and height"),
        ("bayer_rggb8", 3, 2, "needs an even width and height"),
    ],
)
def test_sizes_that_an_encoding_cannot_have_are_refused(encoding, width, height, expected):
    with pytest.raises(ImageRejectedError, match=expected):
        decode_image(width, height, encoding, 0, False, bytes(width * height * 2))


@pytest.mark.fault
def test_fault_05_a_wrong_encoding_is_said_once_and_again_after_it_was_right():
    complaints = Complaints()
    reason = "its encoding is '16UC1'"
    new = [complaints.trouble("camera/image_raw", reason) for _ in range(100)]
    assert new == [True] + [False] * 99
    assert complaints.counts == {"camera/image_raw": 100}
    assert complaints.fine("camera/image_raw")
    assert complaints.trouble("camera/image_raw", reason)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("frame", "first", "fits"),
    [
        ((480, 640, 3), None, True),
        ((240, 320, 3), (480, 640, 3), True),
        ((1080, 1920, 3), (720, 1280, 3), True),
        ((480, 480, 3), (480, 640, 3), False),
        ((640, 480, 3), (480, 640, 3), False),
        ((720, 1280, 3), (480, 640, 3), False),
    ],
)
def test_fault_06_another_resolution_is_taken_another_shape_is_not(frame, first, fits):
    if fits:
        check_frame_size(frame, first)
    else:
        with pytest.raises(ImageRejectedError, match="the camera began with 640 x 480"):
            check_frame_size(frame, first)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"width": 0}, "size"),
        ({"height": 0}, "size"),
        ({"height": 10**6}, "size"),
        ({"width": 2**32 - 1, "height": 2**32 - 1, "step": 2**32 - 1}, "size"),
        ({"step": 11, "data": bytes(40)}, "step is 11 bytes, a row of 4 rgb8 pixels has 12"),
        ({"step": 0, "data": bytes(35)}, "it has 35 bytes of data, 3 rows of 12 are 36"),
        ({"step": 2**32 - 1, "data": bytes(40)}, "bytes of data"),
        (
            {"encoding": "nv12", "height": 4, "step": 0, "data": bytes(16)},
            "16 bytes of data, 6 rows of 4 are 24",
        ),
        ({"data": bytes(35)}, "35 bytes.*: the end is missing"),
        ({"data": bytes(37)}, "37 bytes.*: correct its size, step or encoding"),
        ({"data": b""}, "0 bytes"),
    ],
)
def test_fault_07_unusable_images_are_rejected_with_a_reason(change, expected):
    rejected(change, expected)


@given(
    st.integers(-1, 9),
    st.integers(-1, 9),
    st.sampled_from([*ENCODINGS, "16UC1", "?"]),
    st.integers(0, 40),
    st.booleans(),
    st.binary(max_size=200),
)
def test_whatever_comes_is_decoded_or_rejected(width, height, encoding, step, big, data):
    try:
        pixels = decode_image(width, height, encoding, step, big, data)
    except ImageRejectedError:
        return
    assert pixels.shape == (height, width, 3)


def test_compressed_images_come_as_rgb():
    png = cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()
    assert np.array_equal(decode_compressed(png), RGB)


@pytest.mark.parametrize(
    "stated",
    [
        "",
        "jpeg",
        "png",
        "rgb8; jpeg compressed bgr8",
        "rgb8; jpeg compressed rgb8",
        "bgr8; jpeg compressed bgr8",
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_file_tells_the_order_of_its_colors_whatever_the_format_names(stated, suffix):
    data = cv2.imencode(suffix, known_picture()[..., ::-1])[1].tobytes()
    assert np.abs(decode_compressed(data, stated).astype(int) - known_picture()).max() <= 12


@pytest.mark.parametrize("stated", ["bayer_rggb8; png compressed ", "bayer_rggb8; jpeg compressed "])
def test_a_mosaic_that_was_compressed_as_it_is_becomes_colors(stated):
    raw = mosaic(known_picture(), "rggb")
    suffix = ".png" if "png" in stated else ".jpg"
    data = cv2.imencode(suffix, raw, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    assert np.abs(decode_compressed(data, stated).astype(int) - known_picture()).max() <= 14
    turned = cv2.imencode(suffix, known_picture()[..., ::-1])[1].tobytes()  # by compressed_image_transport
    pixels = decode_compressed(turned, f"{stated}bgr8")
    assert np.abs(pixels.astype(int) - known_picture()).max() <= 12


def with_exif(jpeg, orientation):
    """Insert what cameras write: an APP1 segment with TIFF's tag 0x0112."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda image: image),
        (3, lambda image: np.rot90(image, 2)),
        (6, lambda image: np.rot90(image, -1)),
        (8, lambda image: np.rot90(image, 1)),
    ],
)
def test_pictures_are_turned_upright_as_exif_tells(orientation, upright):
    jpeg = cv2.imencode(".jpg", known_picture()[..., ::-1])[1].tobytes()
    pixels = decode_compressed(with_exif(jpeg, orientation))
    assert np.array_equal(pixels, upright(decode_compressed(jpeg)))


DEPTH = cv2.imencode(".png", np.arange(32 * 24, dtype=np.uint16).reshape(24, 32))[1].tobytes()


@pytest.mark.fault
@pytest.mark.parametrize(
    ("data", "stated", "expected"),
    [
        (DEPTH, "", "16-bit values: this is a depth topic"),
        (DEPTH, "16UC1; png compressed ", "16-bit values: this is a depth topic"),
        (DEPTH, "mono16; png compressed ", "16-bit values: publish images of 8 bits"),
        (
            cv2.imencode(".png", np.zeros((4, 4, 3), np.uint16))[1].tobytes(),
            "rgb16; png compressed bgr16",
            "16-bit values: publish images of 8 bits",
        ),
        (bytes(12) + DEPTH, "16UC1; compressedDepth png", "compressedDepth png': this is a depth topic"),
        (bytes(40), "16UC1; compressedDepth rvl", "this is a depth topic"),
        (b"\0\0\0\1" + bytes(60), "h264", r"neither a JPEG nor a PNG \(format 'h264'\)"),
    ],
)
def test_fault_05_what_is_no_color_picture_is_refused_as_what_it_is(data, stated, expected):
    with pytest.raises(ImageRejectedError, match=expected):
        decode_compressed(data, stated)


JPEG = cv2.imencode(".jpg", np.tile(RGB, (16, 16, 1)))[1].tobytes()
PNG = cv2.imencode(".png", np.tile(RGB, (16, 16, 1)))[1].tobytes()


@pytest.mark.fault
@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8\xff", bytes(100), PNG[:8], PNG[:20], b"BM" + bytes(60)]
)
def test_fault_07_what_is_neither_jpeg_nor_png_is_rejected(data):
    with pytest.raises(ImageRejectedError, match="neither a JPEG nor a PNG"):
        decode_compressed(data)


@pytest.mark.fault
@pytest.mark.parametrize("whole", [JPEG, PNG], ids=["jpeg", "png"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_fault_07_cut_compressed_images_are_rejected(whole, kept):
    decode_compressed(whole)
    with pytest.raises(ImageRejectedError):
        decode_compressed(whole[: int(kept * len(whole))])


def png_that_claims(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def jpeg_that_claims(width, height):
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 5] + struct.pack(">HH", height, width) + JPEG[at + 9 :]


@pytest.mark.fault
@pytest.mark.parametrize("claim", [png_that_claims, jpeg_that_claims])
@pytest.mark.parametrize("size", [(12000, 12000), (16384, 4097), (60000, 1)])
def test_fault_30_a_few_bytes_that_claim_gigabytes_are_not_decoded(claim, size, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(ImageRejectedError, match=f"{size[0]} x {size[1]} pixels"):
        decode_compressed(claim(*size))


@pytest.mark.fault
def test_fault_30_a_4k_image_is_decoded():
    assert decode_compressed(
        cv2.imencode(".jpg", np.zeros((2160, 3840, 3), np.uint8))[1].tobytes()
    ).shape == (
        2160,
        3840,
        3,
    )


@pytest.mark.fault
def test_fault_28_goals_of_another_shape_than_the_cameras_are_rejected_and_before_the_first_frame_none_is():
    check_goal_size((64, 64, 3), None)
    check_goal_size((64, 64, 3), (128, 128, 3))
    check_goal_size((240, 320, 3), (480, 640, 3))
    check_goal_size((96, 96, 3), (240, 320, 3))  # the central square, from a recorded episode
    with pytest.raises(ImageRejectedError, match="same camera"):
        check_goal_size((480, 640, 3), (128, 128, 3))


def test_a_trouble_is_said_once_per_change():
    complaints = Complaints()
    assert [complaints.trouble("t", "a"), complaints.trouble("t", "a")] == [True, False]
    assert complaints.trouble("t", "b")
    assert [complaints.fine("t"), complaints.fine("t")] == [True, False]
    assert complaints.trouble("t", "b")
    assert complaints.counts == {"t": 4}


def test_a_trouble_whose_numbers_change_is_the_same_trouble():
    complaints = Complaints()
    late = [complaints.trouble("t", f"its stamp is {age:.2f} s old on arrival") for age in (1.21, 1.3, 12.0)]
    assert late == [True, False, False]
    assert complaints.trouble("t", "its stamp is 0.31 s ahead")
    assert [complaints.trouble("t", f"its encoding is {e}") for e in ("16UC1", "32FC1")] == [True, True]


@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (255, 255, 255), (30, 90, 200)])
def test_a_goal_of_one_colour_is_refused_also_with_noise(colour):
    picture = np.full((48, 64, 3), colour, np.uint8)
    noise = np.random.default_rng(0).integers(-2, 3, picture.shape)
    for pixels in (picture, np.clip(picture + noise, 0, 255).astype(np.uint8)):
        with pytest.raises(ImageRejectedError, match="one colour everywhere"):
            check_goal_contrast(pixels)
    picture[20:26, 20:26] = (255, 128, 0)
    check_goal_contrast(picture)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed_images_are_rgb_with_any_opencv(monkeypatch, suffix):
    monkeypatch.delattr(cv2, "IMREAD_COLOR_RGB", raising=False)  # since 4.11
    pixels = np.full((16, 16, 3), (200, 30, 90), np.uint8)
    data = cv2.imencode(suffix, pixels[..., ::-1])[1].tobytes()
    assert np.abs(decode_compressed(data).astype(int) - pixels).max() <= 3


@pytest.mark.fault
@pytest.mark.parametrize("norm", [6.7999, 9.2001, 0.0, 1e9, math.nan, math.inf])
def test_fault_45_a_goal_out_of_the_latent_norm_range_is_refused_with_digits_that_tell(norm):
    with pytest.raises(ImageRejectedError) as caught:
        check_goal_norm(norm, (6.8, 9.2))
    if math.isfinite(norm):
        shown, low, high = re.search(
            r"latent norm (\S+), (\S+) to (\S+) is usual", str(caught.value)
        ).groups()
        assert not float(low) <= float(shown) <= float(high)


@pytest.mark.parametrize("norm", [6.8, 8.0, 9.2])
def test_a_goal_within_the_range_is_taken(norm):
    check_goal_norm(norm, (6.8, 9.2))
    check_goal_norm(norm, None)

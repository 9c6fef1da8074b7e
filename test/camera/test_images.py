import math
import re
import struct
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
    check_goal_norm,
    check_goal_size,
    decode_compressed,
    decode_image,
)

RGB = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)


def encoded(encoding, padding=0):
    channels = {
        "rgb8": RGB,
        "bgr8": RGB[..., ::-1],
        "rgba8": np.dstack([RGB, np.full((3, 4), 255, np.uint8)]),
        "bgra8": np.dstack([RGB[..., ::-1], np.full((3, 4), 255, np.uint8)]),
        "mono8": RGB[..., :1],
    }[encoding]
    rows = np.pad(channels.reshape(3, -1), ((0, 0), (0, padding)), constant_values=77)
    return rows.shape[1], rows.tobytes()


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_every_encoding_gives_the_same_pixels(encoding, padding):
    step, data = encoded(encoding, padding)
    pixels = decode_image(4, 3, encoding, step, False, data)
    expected = np.repeat(RGB[..., :1], 3, axis=2) if encoding == "mono8" else RGB
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)


def rejected(change, expected):
    step, data = encoded("rgb8")
    fields = {"width": 4, "height": 3, "encoding": "rgb8", "step": step, "is_bigendian": False, "data": data}
    with pytest.raises(ImageRejectedError, match=expected):
        decode_image(**(fields | change))


@pytest.mark.fault
@pytest.mark.parametrize("encoding", ["32FC1", "16UC1", "yuv422", "", "RGB8", "\0"])
def test_fault_05_a_wrong_encoding_is_rejected_and_the_right_ones_are_named(encoding):
    rejected({"encoding": encoding}, "publish one of rgb8, bgr8")


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
        ({"step": 11}, "step"),
        ({"step": 0}, "step"),
        ({"step": 2**32 - 1}, "bytes of data"),
        ({"is_bigendian": True}, "little-endian"),
        ({"data": bytes(35)}, "35 bytes"),
        ({"data": bytes(37)}, "37 bytes"),
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

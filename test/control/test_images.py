import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from world_model_ros.control.images import (
    ENCODINGS,
    Complaints,
    ImageRejectedError,
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


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoding": "32FC1"}, "publish one of"),
        ({"encoding": ""}, "publish one of"),
        ({"width": 0}, "size"),
        ({"height": 10**6}, "size"),
        ({"step": 11}, "step"),
        ({"is_bigendian": True}, "little-endian"),
        ({"data": bytes(35)}, "35 bytes"),
        ({"data": bytes(37)}, "37 bytes"),
        ({"data": b""}, "0 bytes"),
    ],
)
def test_unusable_images_are_rejected_with_a_reason(change, says):
    step, data = encoded("rgb8")
    fields = {"width": 4, "height": 3, "encoding": "rgb8", "step": step, "is_bigendian": False, "data": data}
    with pytest.raises(ImageRejectedError, match=says):
        decode_image(**(fields | change))


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


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", bytes(100)])
def test_broken_compressed_images_are_rejected(data):
    with pytest.raises(ImageRejectedError, match="JPEG"):
        decode_compressed(data)


def test_goals_of_another_shape_than_the_camera_are_rejected():
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

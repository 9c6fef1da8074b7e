"""Whatever comes over a wire is used or refused in words: no other exception, no surprise in the result."""

import cv2
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from world_model_ros.camera.frames import FrameGate, FrameRules
from world_model_ros.camera.images import (
    ENCODINGS,
    MAX_PIXELS,
    ImageRejectedError,
    decode_compressed,
    decode_image,
)
from world_model_ros.safety.joints import match_joints

UINT32 = st.integers(0, 2**32 - 1)
TIMES = st.integers(-(2**31) * 10**9, 2**31 * 10**9)  # the range of a builtin_interfaces/Time
encodings = st.one_of(st.sampled_from([*ENCODINGS, "16UC1", "32FC1", "nv24"]), st.text(max_size=20))
small = st.integers(0, 40)


def tried(refusal, function, *arguments, **fields):
    """Return (result, "") or (None, why it was refused)."""
    try:
        return function(*arguments, **fields), ""
    except refusal as reason:
        assert 10 < len(str(reason)) < 300  # noqa: PT017
        return None, str(reason)


@st.composite
def plausible_images(draw):
    """An image that is right but for at most one of its fields."""
    encoding = draw(st.sampled_from(sorted(ENCODINGS)))
    form = ENCODINGS[encoding]
    width, height = (draw(st.integers(1, 12)) * number for number in form.multiple)
    step = width * form.size + draw(st.integers(0, 9))
    rows = height * 3 // 2 if form.extra else height
    size = step * rows
    data = draw(st.binary(min_size=size, max_size=size))
    fields = {
        "width": width,
        "height": height,
        "encoding": encoding,
        "step": step,
        "is_bigendian": False,
        # the high bytes of one sample at least: what has fewer bits is refused
        "data": (b"\xff\xff" + data)[:size],
    }
    broken = draw(st.sampled_from(["", *fields]))
    others = {
        "width": UINT32,
        "height": UINT32,
        "encoding": encodings,
        "step": UINT32,
        "is_bigendian": st.booleans(),
        "data": st.binary(max_size=400),
    }
    return fields | ({broken: draw(others[broken])} if broken else {}), broken


@given(plausible_images())
def test_an_image_with_one_wrong_field_is_decoded_or_rejected(image):
    fields, broken = image
    pixels, refused = tried(ImageRejectedError, decode_image, **fields)
    if refused:
        assert broken
        return
    assert pixels.shape == (fields["height"], fields["width"], 3)
    assert (pixels.dtype, pixels.flags.c_contiguous) == (np.uint8, True)


@given(UINT32, UINT32, encodings, UINT32, st.booleans(), st.binary(max_size=300))
@example(2**31, 2**31, "rgb8", 0, False, b"")
@example(16384, 16384, "mono8", 2**32 - 1, False, b"x")
@example(1, 16384, "mono8", 1, False, bytes(16384))
def test_any_fields_are_decoded_or_rejected(width, height, encoding, step, big, data):
    pixels, refused = tried(ImageRejectedError, decode_image, width, height, encoding, step, big, data)
    assert refused or pixels.shape == (height, width, 3)


@st.composite
def damaged_pictures(draw):
    """A JPEG or PNG with bytes changed, cut out and put in."""
    pixels = np.random.default_rng(draw(small)).integers(
        0, 256, (draw(st.integers(1, 24)),) * 2 + (3,), np.uint8
    )
    data = bytearray(cv2.imencode(draw(st.sampled_from([".jpg", ".png"])), pixels)[1].tobytes())
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        end = at + draw(st.sampled_from([0, 1, 1, 1, 2, 4, 10**6]))
        data[at:end] = draw(st.binary(max_size=6))
    return bytes(data)


stated = st.one_of(
    st.sampled_from(["", "jpeg", "rgb8; jpeg compressed bgr8", "bayer_rggb8; jpeg compressed "]), st.text()
)


@given(st.one_of(damaged_pictures(), st.binary(max_size=200)), stated)
def test_compressed_images_are_decoded_or_rejected(data, form):
    pixels, refused = tried(ImageRejectedError, decode_compressed, data, form)
    if refused:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS


names = st.lists(st.one_of(st.sampled_from(["a", "b", "c"]), st.text(max_size=4)), max_size=8)
numbers = st.lists(st.floats(), max_size=8)


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=3, unique=True), names, numbers)
def test_joint_states_are_matched_or_refused(wanted, named, values):
    matched, refused = tried(ValueError, match_joints, wanted, named, values)
    if refused:
        assert "joint_states" in refused
        return
    assert matched.shape == (len(wanted),)
    assert np.isfinite(matched).all()
    for name, value in zip(wanted, matched, strict=True):
        assert named.count(name) == 1
        assert values[named.index(name)] == value


@given(st.permutations(["a", "b", "c", "d"]), st.lists(st.floats(-9, 9), min_size=4, max_size=4))
def test_the_order_of_joints_does_not_matter(order, values):
    by_name = dict(zip("abcd", values, strict=True))
    assert match_joints("ab", order, [by_name[name] for name in order]).tolist() == values[:2]


arrivals = st.tuples(
    st.one_of(TIMES, st.integers(-(10**10), 10**10)), st.integers(-(10**9), 10**9), st.binary(max_size=4)
)


@given(
    st.lists(arrivals, max_size=40),
    st.floats(0, 60),
    st.floats(0, 60),
    st.floats(0, 60),
    st.floats(0.1, 1000),
)
def test_a_frame_gate_lets_only_newer_frames_through_at_no_more_than_its_rate(
    frames, age, ahead, frozen, rate
):
    gate = FrameGate(FrameRules(age, ahead, frozen, rate))
    used, newest, received = [], None, 0
    for delta, lag, data in frames:
        received = received + delta if abs(delta) <= 10**10 else delta
        stamp = received - lag
        if newest is not None and (received < newest[1] or (received and not newest[1])):
            used, newest = [], None  # set back, or begun: what counts begins anew
        reason = gate.judge(stamp, received, data)
        assert isinstance(reason, str)
        if gate.counts["used"] > len(used) and not reason:
            if used:
                assert stamp > used[-1]
            used.append(stamp)
        if not reason or gate.frozen:
            if newest is not None:
                assert stamp - newest[0] >= 10**9 / rate
            assert not ahead or not received or stamp - received <= ahead * 1e9
            assert not age or not received or received - stamp <= age * 1e9
            newest = stamp, received
    assert sum(gate.counts.values()) == len(frames)

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from world_model_ros.camera.images import ImageRejectedError
from world_model_ros.model.config import ActionSpec
from world_model_ros.safety.limits import LEASH, Limits

pytest.importorskip("sensor_msgs", reason="ROS 2 is not here: make setup installs it, or source one")

from world_model_ros.nodes.messages import Commands, latent_array, latent_message, plan_message

DIM = 8


def message(**changes):
    fields = {
        "width": DIM,
        "height": 1,
        "encoding": "32FC1",
        "is_bigendian": 0,
        "step": 4 * DIM,
        "data": np.arange(DIM, dtype="<f4").tobytes(),
    }
    return SimpleNamespace(**(fields | changes))


def test_a_plan_of_joints_begins_where_they_will_be_also_where_the_frame_is_old(arm_checkpoint):
    from world_model_ros.model.config import read_spec
    from world_model_ros.planning.timeline import ModelStep

    spec = read_spec(arm_checkpoint)
    running, actions = np.full((5, 2), 0.1), np.full((5, 2), 0.2)

    def first(latency):
        times = {"index": 0, "start": 0, "due": 250_000_000, "stamp": 0, "previous": None}
        step = ModelStep(**times, latency=latency, latent=None, executed=None, known=False, running=running)
        return plan_message(step, actions, np.array([1.0, 2.0]), spec).points[0].positions

    np.testing.assert_allclose(first(0), [1.035, 2.035])
    np.testing.assert_allclose(first(100_000_000), [1.025, 2.025])  # two of the five steps have been done


def test_a_latent_comes_back_as_it_went():
    from std_msgs.msg import Header

    latent = np.random.default_rng(0).normal(size=DIM).astype(np.float32)
    sent = latent_message(latent, Header(frame_id="camera"))
    np.testing.assert_array_equal(latent_array(sent, DIM), latent)
    assert sent.header.frame_id == "camera"


@pytest.mark.fault
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_fault_13_latents_that_are_not_finite_are_rejected(broken):
    values = np.zeros(DIM, "<f4")
    values[3] = broken
    with pytest.raises(ImageRejectedError, match="not finite"):
        latent_array(message(data=values.tobytes()), DIM)
    values[4] = -broken
    with pytest.raises(ImageRejectedError, match="not finite"):
        latent_array(message(data=values.tobytes()), DIM)


@pytest.mark.fault
@pytest.mark.parametrize(
    "changes", [{"width": 64}, {"height": 2}, {"encoding": "rgb8"}, {"is_bigendian": 1}, {"data": b"1234"}]
)
def test_fault_25_latents_of_another_checkpoint_are_rejected(changes):
    with pytest.raises(ImageRejectedError):
        latent_array(message(**changes), DIM)


wild = st.integers(0, 2**32 - 1)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "width": st.one_of(wild, st.integers(0, 16)),
            "height": st.one_of(wild, st.integers(0, 3)),
            "encoding": st.one_of(st.sampled_from(["32FC1", "32FC2", "rgb8"]), st.text(max_size=8)),
            "is_bigendian": st.integers(0, 255),
            "step": wild,
            "data": st.one_of(st.binary(max_size=80), st.binary(min_size=4 * DIM, max_size=4 * DIM)),
        },
    )
)
def test_whatever_comes_is_a_finite_latent_or_rejected(changes):
    try:
        latent = latent_array(message(**changes), DIM)
    except ImageRejectedError:
        return
    assert (latent.shape, latent.dtype) == ((DIM,), np.float32)
    assert np.isfinite(latent).all()
    latent[:] = 0  # it is the reader's own


JOINTS = ActionSpec(("a", "b"), "joint_velocity", "rad/s", (0, 0), (1, 1), (-1, -1), (1, 1))
WIDE, NARROW = (Limits(JOINTS.names, JOINTS.low, JOINTS.high, None, (-at, -at), (at, at)) for at in (9, 0.5))
PERIOD = 0.05
MEASURED = np.array([0.5, -1.0])
STILL = np.zeros(2)


def points(message):
    return [
        (list(p.positions), list(p.velocities), p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec)
        for p in message.points
    ]


@pytest.fixture
def commands():
    return Commands(JOINTS, "joint_trajectory", PERIOD, WIDE)


def test_a_moving_trajectory_ends_standing_still_a_step_later(commands):
    message = commands.message(7, np.array([1.0, -0.2]), True, MEASURED)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 0)  # now
    first, last = points(message)
    assert first == (pytest.approx([0.55, -1.01]), [1.0, -0.2], pytest.approx(0.05))
    assert last == (pytest.approx([0.575, -1.015]), [0.0, 0.0], pytest.approx(0.1))


def test_a_plan_goes_on_from_where_it_led_not_from_what_lags_behind(commands):
    for _ in range(3):
        message = commands.message(0, np.array([1.0, 0.0]), True, MEASURED)
    assert points(message)[0][0] == pytest.approx([0.65, -1.0])


def test_a_blocked_arm_is_not_sent_ever_further(commands):
    for _ in range(100):
        message = commands.message(0, np.array([1.0, 0.0]), True, MEASURED)
    assert points(message)[0][0] == pytest.approx([0.5 + LEASH + 0.05, -1.0])


def test_standing_still_keeps_what_was_measured_when_it_began(commands):
    commands.message(0, np.array([1.0, 0.0]), True, MEASURED)
    for sunk in (0.0, 0.01, 0.02):
        message = commands.message(0, STILL, False, MEASURED - sunk)
        assert [p[0] for p in points(message)] == [pytest.approx(MEASURED)] * 2
        assert all(p[1] == [0.0, 0.0] for p in points(message))
    message = commands.message(0, np.array([1.0, 0.0]), True, MEASURED - 0.02)
    assert points(message)[0][0] == pytest.approx([0.53, -1.02])  # from where it is now


def test_no_position_is_made_up(commands):
    assert commands.message(0, STILL, False, None) is None
    assert commands.message(0, np.ones(2), True, None) is None


def test_velocities_and_twists_are_zero_when_still():
    assert list(Commands(JOINTS, "velocities", PERIOD, WIDE).message(0, STILL, False, None).data) == [
        0.0,
        0.0,
    ]
    twist = ActionSpec(("linear_x", "angular_z"), "twist", "m/s", (0, 0), (1, 1), (-1, -1), (1, 1), "base")
    limits = Limits(twist.names, twist.low, twist.high)
    commands = Commands(twist, "twist", PERIOD, limits)
    message = commands.message(2_000_000_005, np.array([0.1, -0.3]), True, None)
    assert (message.twist.linear.x, message.twist.angular.z) == (0.1, -0.3)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (2, 5)
    assert message.header.frame_id == "base"
    unstamped = Commands(twist, "twist_unstamped", PERIOD, limits).message(
        0, np.array([0.1, -0.3]), True, None
    )
    assert unstamped == message.twist


@pytest.fixture
def narrow():
    return Commands(JOINTS, "joint_trajectory", PERIOD, NARROW)


def places(message):
    return np.array([point.positions for point in message.points])


@pytest.mark.fault
def test_fault_14_no_point_of_a_trajectory_lies_outside_the_position_limits(narrow):
    """The joints lag a step or two behind what was commanded, and so do their measured positions."""
    measured, sent = np.array([0.45, 0.0]), []
    for _ in range(20):
        message = narrow.message(0, np.array([1.0, 0.1]), True, measured)
        sent.append(places(message))
        measured = sent[-3][0] if len(sent) > 2 else measured
    assert np.max(sent) == 0.5
    assert list(message.points[0].velocities) == [0.0, 0.1]


@pytest.mark.fault
def test_fault_14_a_joint_outside_its_limits_is_held_and_may_only_come_back(narrow):
    outside = np.array([0.6, 0.0])
    assert places(narrow.message(0, np.zeros(2), False, outside))[:, 0].tolist() == [0.6, 0.6]
    assert places(narrow.message(0, np.array([1.0, 0.0]), True, outside))[:, 0].max() == 0.6
    back = narrow.message(0, np.array([-1.0, 0.0]), True, outside)
    assert places(back)[:, 0] == pytest.approx([0.55, 0.525])

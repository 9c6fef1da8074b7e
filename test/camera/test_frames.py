import numpy as np
import pytest

from world_model_ros.camera.frames import SILENT, UNUSABLE, CameraState, FrameGate, FrameRules
from world_model_ros.safety.health import Health

MS = 1_000_000
GAP = 50 * MS
SECOND = 1000 * MS
FROZEN = "the camera is frozen"
NOW = 1_700_000_000 * SECOND  # a time of day


def picture(number):
    return bytes([number % 251]) * 48


def feed(gate, count, start=0, data=picture):
    """Judge frames of a steady camera; return the reason for each."""
    return [gate.judge((start + i) * GAP, (start + i) * GAP, data(start + i)) for i in range(count)]


@pytest.fixture
def gate():
    return FrameGate()


def test_a_steady_camera_is_used(gate):
    assert feed(gate, 50) == [""] * 50
    assert gate.counts == dict.fromkeys(gate.counts, 0) | {"used": 50}


@pytest.mark.fault
def test_fault_03_a_frozen_camera_is_noticed_after_a_second_and_used_again_at_once(gate):
    feed(gate, 3)
    reasons = feed(gate, 40, 3, data=lambda _: picture(3))
    assert reasons[:20] == [""] * 20
    assert all("frozen" in reason and "restart the camera" in reason for reason in reasons[20:])
    assert gate.frozen
    assert gate.counts["frozen"] == 20
    assert feed(gate, 1, 43) == [""]
    assert not gate.frozen


def test_a_camera_without_noise_may_switch_the_rule_off():
    gate = FrameGate(FrameRules(frozen=0.0))
    assert feed(gate, 100, data=lambda _: picture(0)) == [""] * 100


@pytest.mark.fault
def test_fault_04_a_stamp_that_comes_again_is_no_new_frame(gate):
    feed(gate, 3)
    reasons = [gate.judge(2 * GAP, 2 * GAP + i * MS, picture(100 + i)) for i in range(5)]
    assert all("not newer" in reason for reason in reasons)
    assert gate.counts["repeated"] == 5
    assert gate.counts["used"] == 3


@pytest.mark.fault
@pytest.mark.parametrize(
    ("stamp", "received", "kind"),
    [
        (10 * GAP, 10 * GAP + 1001 * MS, "late"),
        (0, 10 * GAP + 1001 * MS, "unstamped"),
        (2 * GAP, 11 * GAP, "repeated"),  # out of order
        (10 * GAP + 301 * MS, 10 * GAP, "future"),
        (10 * GAP + 3600_000 * MS, 10 * GAP, "future"),
    ],
)
def test_fault_09_late_unordered_and_future_stamps_are_dropped_and_counted(gate, stamp, received, kind):
    feed(gate, 10)
    assert gate.judge(stamp, received, picture(99))
    assert gate.counts[kind] == 1
    assert gate.counts["used"] == 10
    assert feed(gate, 3, 11) == [""] * 3  # and the next ones are not held up by it


@pytest.mark.fault
def test_fault_09_what_is_just_in_time_is_used(gate):
    assert gate.judge(1000 * MS, 2000 * MS, picture(0)) == ""
    assert gate.judge(2400 * MS, 2100 * MS, picture(1)) == ""


def test_rules_of_age_can_be_switched_off():
    gate = FrameGate(FrameRules(max_age=0.0, ahead=0.0))
    assert gate.judge(0, 3600_000 * MS, picture(0)) == ""
    assert gate.judge(7200_000 * MS, 3600_001 * MS, picture(1)) == ""


@pytest.mark.fault
def test_fault_29_a_clock_set_back_is_a_new_beginning(gate):
    feed(gate, 20, start=1000)
    assert feed(gate, 20) == [""] * 20
    assert gate.counts["used"] == 40


@pytest.mark.fault
def test_fault_29_what_was_stamped_before_the_clock_began_does_not_shut_out_what_comes_after(gate):
    assert [gate.judge(10**18 + i * GAP, 0, picture(i)) for i in range(3)] == [""] * 3
    assert feed(gate, 20, start=1) == [""] * 20


@pytest.mark.fault
def test_fault_30_of_a_flood_only_as_many_frames_are_perceived_as_the_rule_allows(gate):
    reasons = [gate.judge(i * MS, i * MS, picture(i)) for i in range(1, 1001)]
    assert reasons.count("") == 100
    assert gate.counts["too_many"] == 900


@pytest.mark.fault
@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.zeros((48, 64, 3), np.uint8), "black"),
        (np.full((48, 64, 3), 3, np.uint8), "black"),
        (np.full((48, 64, 3), 255, np.uint8), "white"),
        (np.zeros((1, 1, 3), np.uint8), "black"),
    ],
)
def test_fault_08_pictures_that_show_nothing_are_warned_of(pixels, expected):
    assert expected in FrameGate.look(pixels)


def test_a_dark_picture_with_a_lamp_in_it_is_none_of_those():
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[10:30, 10:30] = 200
    assert FrameGate.look(pixels) == ""
    assert FrameGate.look(255 - pixels) == ""


@pytest.mark.fault
@pytest.mark.parametrize(
    ("stamp", "expected", "unexpected"),
    [
        (0, "the driver does not stamp its images", "old"),
        (1234 * SECOND, "its stamp is 1234.00 s, which counts from when the camera", "synchronise"),
        (NOW - 60 * SECOND, "60.00 s old on arrival: synchronise the clocks", "max_age"),
        (NOW - 7200 * SECOND, "2.0 hours old on arrival: if a bag is played", "max_age"),
        (
            NOW - 7 * 86400 * SECOND,
            "7.0 days old on arrival: if a bag is played, use `ros2 bag play --",
            "max_",
        ),
        (NOW + 5 * SECOND, "5.00 s ahead of this node's clock: synchronise", "bag"),
        (NOW + 86400 * SECOND, "24.0 hours ahead of this node's clock", "bag"),
        (NOW - 2 * SECOND, "2.00 s old on arrival", "driver"),
    ],
)
def test_fault_09_the_true_cause_of_a_stamp_is_named(gate, stamp, expected, unexpected):
    for _ in range(3):
        reason = gate.judge(stamp, NOW, picture(0))
        assert expected in reason
        assert unexpected not in reason
    assert gate.counts["used"] == 0


@pytest.mark.fault
def test_fault_09_a_cameras_clock_that_is_set_back_is_named_as_that(gate):
    assert gate.judge(NOW, NOW, picture(0)) == ""
    assert "30.00 s old on arrival: synch" in gate.judge(NOW - 29 * SECOND, NOW + SECOND, picture(1))
    assert gate.counts["repeated"] == 1


@pytest.mark.fault
def test_fault_09_a_real_camera_under_a_simulated_clock_is_named_as_that(gate):
    reason = gate.judge(NOW, 12 * SECOND, picture(0))
    assert (
        "its stamp is the time of day, this node's clock is at 12.00 s: set use_sim_time to false" in reason
    )


@pytest.mark.parametrize("age", [-5, 60, 7200, 7 * 86400, 20 * 365 * 86400])
def test_where_only_the_clocks_are_wrong_the_parameter_that_helps_is_named(gate, age):
    reason = gate.judge(NOW - age * SECOND, NOW, picture(0))
    assert "or set the parameter image_stamp of encoder_node to received" in reason
    assert reason.count(": ") <= 2
    assert len(reason) < 300


def test_the_first_frames_of_a_simulation_may_be_stamped_zero(gate):
    assert gate.judge(0, 0, picture(0)) == ""
    assert gate.judge(0, GAP, picture(1)) == ""  # the clock has begun in between
    assert "does not stamp" in gate.judge(0, 2 * GAP, picture(2))
    assert gate.judge(2 * GAP, 2 * GAP, picture(3)) == ""


@pytest.fixture
def camera():
    return CameraState()


def test_a_camera_that_never_came_gives_no_warning_here(camera):
    assert camera.verdict(1e9) == (Health.FINE, "")


def test_a_good_frame_is_fine_and_a_dark_one_a_warning(camera):
    camera.used(1.0)
    assert camera.verdict(1.1) == (Health.FINE, "")
    camera.used(1.2, "the picture is black")
    assert camera.verdict(1.3) == (Health.WARNING, "the picture is black")


@pytest.mark.fault
def test_fault_03_a_frozen_camera_keeps_its_cause_until_frames_stop_altogether(camera):
    camera.used(0.0)
    for tenth in range(1, 100):
        camera.refused(tenth / 10, "frozen", FROZEN, frozen=True)
        assert camera.verdict(tenth / 10 + 0.09) == (Health.HOLD, FROZEN)
    health, reason = camera.verdict(9.9 + SILENT + 0.01)
    assert health is Health.WARNING
    assert "no frame for more than 1 s" in reason
    camera.used(20.0)
    assert camera.verdict(20.0) == (Health.FINE, "")


def test_frames_that_are_all_of_no_use_are_a_warning_with_the_cause_in_the_same_words(camera):
    verdicts = set()
    for tenth in range(20):
        camera.refused(tenth / 10, "late", f"its stamp is {tenth} s old")
        verdicts.add(camera.verdict(tenth / 10))
    assert verdicts == {(Health.FINE, ""), (Health.WARNING, "no frame can be used: its stamp is 0 s old")}
    camera.refused(2.0, "future", "its stamp is ahead")
    assert camera.verdict(2.0)[1] == "no frame can be used: its stamp is ahead"


def test_a_frame_now_and_then_that_is_of_no_use_is_nothing(camera):
    for number in range(50):
        camera.refused(number / 10, "late", "late")
        camera.used(number / 10 + UNUSABLE / 10)
        assert camera.verdict(number / 10 + UNUSABLE / 5) == (Health.FINE, "")

import pytest

from world_model_ros.camera.state import SILENT, UNUSABLE, CameraState
from world_model_ros.safety.health import Health

FROZEN = "the camera is frozen"


@pytest.fixture
def camera():
    return CameraState()


def test_a_camera_that_never_came_is_no_business_of_this(camera):
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
    said = set()
    for tenth in range(20):
        camera.refused(tenth / 10, "late", f"its stamp is {tenth} s old")
        said.add(camera.verdict(tenth / 10))
    assert said == {(Health.FINE, ""), (Health.WARNING, "no frame can be used: its stamp is 0 s old")}
    camera.refused(2.0, "future", "its stamp is ahead")
    assert camera.verdict(2.0)[1] == "no frame can be used: its stamp is ahead"


def test_a_frame_now_and_then_that_is_of_no_use_is_nothing(camera):
    for number in range(50):
        camera.refused(number / 10, "late", "late")
        camera.used(number / 10 + UNUSABLE / 10)
        assert camera.verdict(number / 10 + UNUSABLE / 5) == (Health.FINE, "")

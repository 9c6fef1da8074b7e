import pytest

from world_model_ros.camera.frame_drops import FrameDropMonitor


@pytest.fixture
def losses():
    return FrameDropMonitor()


def test_a_camera_whose_frames_all_come_is_good(losses):
    for _ in range(1000):
        losses.came()
    assert not losses.bad()
    assert losses.total == 0


def test_one_frame_in_five_is_too_many(losses):
    for _ in range(30):
        losses.lost(1)
        for _ in range(4):
            losses.came()
    assert losses.bad()
    sentence = losses.sentence("camera/image_raw", "/camera")
    assert sentence == "20 % of the frames on camera/image_raw from /camera get lost on the way"
    assert "the camera" in losses.sentence("camera/image_raw", "")


def test_one_in_twenty_is_not(losses):
    for _ in range(30):
        losses.lost(1)
        for _ in range(19):
            losses.came()
    assert not losses.bad()
    assert losses.total == 30


def test_a_few_at_the_beginning_say_nothing(losses):
    losses.lost(3)
    assert not losses.bad()


def test_one_in_fourteen_does_not_end_what_one_in_five_has_begun(losses):
    for _ in range(15):
        losses.lost(1)
        for _ in range(4):
            losses.came()
    assert losses.bad()
    for _ in range(30):
        losses.lost(1)
        for _ in range(13):
            losses.came()
            assert losses.bad()  # where it changed to and fro, it would be said again each time
    for _ in range(60):
        losses.came()
    assert not losses.bad()


def test_it_is_the_newest_that_count_and_a_huge_number_costs_nothing(losses):
    losses.lost(2**31)
    assert losses.bad()
    assert losses.total == 2**31
    for _ in range(60):
        losses.came()
    assert not losses.bad()

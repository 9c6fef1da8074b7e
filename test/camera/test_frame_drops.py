import pytest

from world_model_ros.camera.frame_drops import FrameDropMonitor


@pytest.fixture
def drops():
    return FrameDropMonitor()


def test_a_camera_whose_frames_all_come_is_good(drops):
    for _ in range(1000):
        drops.came()
    assert not drops.bad()
    assert drops.total == 0


def test_one_frame_in_five_is_too_many(drops):
    for _ in range(30):
        drops.lost(1)
        for _ in range(4):
            drops.came()
    assert drops.bad()
    sentence = drops.sentence("camera/image_raw", "/camera")
    assert sentence == "20 % of the frames on camera/image_raw from /camera get lost on the way"
    assert "the camera" in drops.sentence("camera/image_raw", "")


def test_one_in_twenty_is_not(drops):
    for _ in range(30):
        drops.lost(1)
        for _ in range(19):
            drops.came()
    assert not drops.bad()
    assert drops.total == 30


def test_a_few_at_the_beginning_are_too_few(drops):
    drops.lost(3)
    assert not drops.bad()


def test_one_in_fourteen_does_not_end_what_one_in_five_has_begun(drops):
    for _ in range(15):
        drops.lost(1)
        for _ in range(4):
            drops.came()
    assert drops.bad()
    for _ in range(30):
        drops.lost(1)
        for _ in range(13):
            drops.came()
            assert drops.bad()  # a state that changed to and fro would be logged each time
    for _ in range(60):
        drops.came()
    assert not drops.bad()


def test_it_is_the_newest_that_count_and_a_huge_number_costs_nothing(drops):
    drops.lost(2**31)
    assert drops.bad()
    assert drops.total == 2**31
    for _ in range(60):
        drops.came()
    assert not drops.bad()

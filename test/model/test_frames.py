import numpy as np
import pytest

from world_model_ros.model.frames import resize_frame


def test_shrinking_averages_areas():
    frame = np.zeros((4, 4, 3), np.uint8)
    frame[:2, :2] = 100
    frame[0, 0] = 200
    assert resize_frame(frame, 2)[0, 0].tolist() == [125] * 3
    assert resize_frame(frame, 2)[1, 1].tolist() == [0] * 3


def test_a_wide_frame_is_cut_to_its_middle():
    frame = np.zeros((4, 8, 3), np.uint8)
    frame[:, 2:6] = 9
    assert (resize_frame(frame, 4) == 9).all()
    assert (resize_frame(frame, 2) == 9).all()


@pytest.mark.parametrize("frame", [np.zeros((4, 4)), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))])
def test_other_arrays_are_refused(frame):
    with pytest.raises(ValueError, match="uint8"):
        resize_frame(frame, 2)

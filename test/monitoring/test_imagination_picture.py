"""The picture of what the model imagines."""

import numpy as np
import pytest

from world_model_ros.monitoring.imagination_picture import (
    ARRIVAL,
    GAP,
    GOAL,
    LINE,
    MISSING,
    draw,
    headline,
    message_picture,
    number,
    square,
    two_rows,
)

TILE = 100


def flat(value, count=None):
    shape = (64, 64, 3) if count is None else (count, 64, 64, 3)
    return np.full(shape, value, np.uint8)


def rows(camera=None, planned=None, goal=None, distances=(None, None), arrival=2):
    return two_rows(0.25, camera, flat(50), planned, flat(200, 3), goal, distances, arrival)


def tile(picture, row, column):
    """Return the middle of a tile, and the colour of its edge."""
    top = LINE + GAP + row * (2 * LINE + TILE + 2 * GAP) + LINE
    left = GAP + column * (TILE + GAP)
    part = picture[top : top + TILE, left : left + TILE]
    return part[TILE // 2, TILE // 2].tolist(), part[0, TILE // 2].tolist()


def test_now_the_plan_and_the_goal_stand_side_by_side_above_standing_still():
    distances = np.array([9.0, 8.0, 7.0, 123456.0]), np.array([9.0, 9.5, 9.5, np.nan])
    made = rows(flat(10), flat(100, 3), flat(150), distances)
    assert made[0].captions == [
        "camera  d 9.0",
        "+0.25 s  d 8.0",
        "+0.50 s  d 7.0",
        "+0.75 s  d 1e+05",
        "goal, decoded",
    ]
    assert made[1].captions == ["now, decoded  d 9.0", "+0.25 s  d 9.5", "+0.50 s  d 9.5", "+0.75 s  d ?"]
    assert "ends in 0.50 s" in made[0].title
    picture = draw("text", made, TILE)
    assert [tile(picture, 0, column)[0][0] for column in range(5)] == [10, 100, 100, 100, 150]
    assert [tile(picture, 1, column)[0][0] for column in range(4)] == [50, 200, 200, 200]
    assert tile(picture, 0, 2)[1] == list(ARRIVAL)
    assert tile(picture, 0, 4)[1] == list(GOAL)
    # all the same size, whatever is missing: a viewer must not jump
    assert draw("", rows(), TILE).shape == picture.shape


def test_what_is_missing_is_grey_and_said():
    made = rows()
    assert made[0].captions == ["now, decoded", "+0.25 s", "+0.50 s", "+0.75 s", "no goal"]
    assert made[0].title.startswith("no plan")
    picture = draw("", made, TILE)
    assert [tile(picture, 0, c)[0] for c in range(1, 5)] == [list(MISSING)] * 4
    assert tile(picture, 0, 4)[1] == list(MISSING)  # no frame of a goal


def test_the_first_line_has_distance_and_surprise_with_what_is_usual():
    assert headline(34.21, 2.4, 3.0, 29.0) == (
        "distance d 34.2 (reached at 2.4)     surprise 3.0 (usual up to 29.0)"
    )
    assert headline(None, None, None, None) == "distance d -     surprise -"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04, "0.0"), (99.94, "99.9"), (1234.5, "1234"), (3e7, "3e+07"), (float("inf"), "?")],
)
def test_numbers_stay_short(value, text):
    assert number(value) == text


def test_of_a_wide_frame_the_central_square_is_shown():
    frame = np.zeros((60, 100, 3), np.uint8)
    frame[:, 20:80] = 255
    assert square(frame).shape == (60, 60, 3)
    assert square(frame).min() == 255


def test_a_sentence_becomes_a_picture_of_several_lines():
    short, long = message_picture("no decoder"), message_picture("no decoder here " * 40)
    assert short.max() > 200
    assert long.shape[0] > 3 * short.shape[0] / 2
    assert long.shape[1] == short.shape[1]

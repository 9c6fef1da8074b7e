"""The film of the planner beside what it imagines."""

import cv2
import numpy as np
import pytest

from world_model_ros.evaluation import film


def test_a_film_shows_camera_imagination_and_goal_of_every_goal(tmp_path, capsys):
    file = tmp_path / "reach.webp"
    assert film.main([str(file), "--task", "reach", "-n", "1", "--seed", "3"]) == 0
    assert "1 of 1 goals reached" in capsys.readouterr().out
    read, animation = cv2.imreadanimation(str(file))
    assert read
    assert len(animation.frames) >= 5
    frame = animation.frames[-1].astype(int)
    panels = [frame[film.LINE :, film.GAP + k * (film.PANEL + film.GAP) :] for k in range(3)]
    camera, imagined, goal = (p[: film.PANEL, : film.PANEL] for p in panels)
    # At the goal all three show the same, and none is empty.
    for picture in (imagined, goal):
        assert np.abs(picture - camera).mean() < 12
        assert picture.std() > 20
    assert animation.durations[-1] == film.PAUSE


@pytest.mark.parametrize("name", ["film.gif", "missing/film.webp"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, name, capsys):
    assert film.main([str(tmp_path / name), "--task", "reach"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(("option", "value"), [("-n", "0"), ("--seed", "-1")])
def test_a_number_that_is_too_small_is_refused(tmp_path, option, value, capsys):
    assert film.main([str(tmp_path / "film.webp"), option, value]) == 2
    assert f"{option} must be at least" in capsys.readouterr().err

import numpy as np
import pytest

from world_model_ros.sim.camera import CameraClock, ClockGuard
from world_model_ros.sim.tasks import make_world

STEP, PERIOD = 6_250_000, 50_000_000


def moments(rate, jitter, seconds=20, seed=0):
    camera = CameraClock(rate, jitter, STEP, seed)
    return [m for t in range(0, round(seconds * 1e9), PERIOD) for m in camera.taken(t, t + PERIOD)]


@pytest.mark.parametrize("rate", [5, 10, 15, 20, 24, 30, 60])
@pytest.mark.parametrize("jitter", [0.0, 0.01])
def test_frames_come_at_the_rate_and_at_physics_steps(rate, jitter):
    found = moments(rate, jitter)
    assert len(found) == pytest.approx(20 * rate, rel=0.02)
    assert all(moment % STEP == 0 for moment in found)
    due = np.arange(1, 20 * rate - 1) * 1e9 / rate
    off = np.array([min(abs(np.array(found) - moment)) for moment in due])
    assert off.max() <= jitter * 1e9 + STEP  # half a step of rounding, or what keeps frames apart
    assert min(np.diff(found)) >= max(2 * STEP, 0.4e9 / rate)
    if jitter:
        assert np.std(np.diff(found)) > 3e6


def test_equal_seeds_give_equal_cameras():
    assert moments(30, 0.01, seed=1) == moments(30, 0.01, seed=1)
    assert moments(30, 0.01, seed=1) != moments(30, 0.01, seed=2)


def test_frames_of_a_time_that_was_left_out_are_not_taken_later():
    camera = CameraClock(20, 0.0, STEP)
    assert camera.taken(0, PERIOD) == [PERIOD]
    assert camera.taken(10 * PERIOD, 10 * PERIOD) == []
    assert camera.taken(10 * PERIOD, 11 * PERIOD) == [11 * PERIOD]


def test_looking_between_physics_steps_changes_nothing_and_shows_the_moment():
    worlds = [make_world("reach", seed=3) for _ in range(2)]
    pictures = []

    def look(substep):
        pictures.append((substep, worlds[1].state(), worlds[1].render()))

    for _ in range(3):
        worlds[0].step(np.array([0.4, -0.2]))
        worlds[1].step(np.array([0.4, -0.2]), look)
    np.testing.assert_array_equal(worlds[0].state(), worlds[1].state())
    np.testing.assert_array_equal(worlds[0].render(), worlds[1].render())
    assert [substep for substep, _, _ in pictures] == 3 * list(range(1, worlds[0].substeps + 1))
    states = np.array([state for _, state, _ in pictures])
    np.testing.assert_allclose(np.diff(states[:, 0])[1:], 0.4 * 0.05 / 8, rtol=0.1)
    assert any((pictures[0][2] != picture).any() for _, _, picture in pictures[1:])
    for world in worlds:
        world.close()


def test_a_time_that_is_not_ours_is_somebody_elses_clock():
    guard = ClockGuard()
    for stamp in range(0, 2000 * PERIOD, PERIOD):
        guard.published(stamp)
        guard.heard(stamp)
        assert not guard.foreign
    guard.heard(7)
    assert guard.foreign

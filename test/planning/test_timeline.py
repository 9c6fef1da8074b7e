import numpy as np
import pytest

from world_model_ros.planning.action_buffer import ActionBuffer
from world_model_ros.planning.timeline import Timeline

PERIOD, BLOCK = 50, 5
LENGTH = PERIOD * BLOCK
T0 = 1000


@pytest.fixture
def timeline():
    return Timeline(PERIOD, BLOCK, 1, ActionBuffer(PERIOD, 2 * LENGTH))


def execute(timeline, start, values, jitter=0):
    for i, value in enumerate(values):
        timeline.add_executed(start + i * PERIOD + jitter, [value])


def latent(timeline, stamp):
    return timeline.add_latent(stamp, np.zeros(4))


def test_first_latent_begins_the_grid_without_history(timeline):
    step = latent(timeline, T0)
    assert (step.index, step.start, step.due) == (0, T0, T0 + LENGTH)
    assert step.executed is None
    assert step.running.tolist() == [[0.0]] * BLOCK


def test_one_step_per_block_and_frames_between_are_ignored(timeline):
    steps = [latent(timeline, T0 + i * PERIOD) for i in range(11)]
    assert [s.index for s in steps if s is not None] == [0, 1, 2]
    assert [i for i, s in enumerate(steps) if s is not None] == [0, 5, 10]


@pytest.mark.parametrize(("offset", "taken"), [(-25, True), (25, True), (-26, False), (26, False)])
def test_a_jittery_frame_counts_within_half_a_control_step(timeline, offset, taken):
    latent(timeline, T0)
    step = latent(timeline, T0 + LENGTH + offset)
    assert (step is not None) == taken
    if taken:
        assert step.start == T0 + LENGTH


def test_the_same_stamp_again_is_no_new_step(timeline):
    assert latent(timeline, T0) is not None
    assert latent(timeline, T0) is None


@pytest.mark.parametrize("jitter", [0, 20, -20])
def test_executed_block_is_what_really_went_out(timeline, jitter):
    latent(timeline, T0)
    execute(timeline, T0, [1, 2, 3, 4, 5], jitter)
    assert latent(timeline, T0 + LENGTH).executed[:, 0].tolist() == [1, 2, 3, 4, 5]


def test_missing_executed_steps_fall_back_to_the_commanded_plan(timeline):
    timeline.buffer.put(T0, np.full((10, 1), 7.0))
    latent(timeline, T0)
    execute(timeline, T0, [1, 2])
    step = latent(timeline, T0 + LENGTH)
    assert step.executed[:, 0].tolist() == [1, 2, 7, 7, 7]
    assert step.running[:, 0].tolist() == [7] * 5


def test_running_block_changes_over_to_the_newer_plan(timeline):
    latent(timeline, T0)
    timeline.buffer.put(T0, np.full((10, 1), 7.0))
    timeline.buffer.put(T0 + LENGTH, np.arange(10.0)[:, None])
    assert latent(timeline, T0 + LENGTH).running[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_used_up_plan_means_standing_still(timeline):
    timeline.buffer.put(T0, np.full((7, 1), 7.0))
    latent(timeline, T0)
    assert latent(timeline, T0 + LENGTH).running[:, 0].tolist() == [7, 7, 0, 0, 0]


def test_a_missing_frame_is_a_gap_and_forgets_the_history(timeline):
    latent(timeline, T0)
    execute(timeline, T0 + LENGTH, [1] * 5)
    assert latent(timeline, T0 + 2 * LENGTH).executed is None
    execute(timeline, T0 + 2 * LENGTH, [2] * 5)
    assert latent(timeline, T0 + 3 * LENGTH).executed[:, 0].tolist() == [2] * 5


def test_time_set_back_begins_anew(timeline):
    timeline.buffer.put(9000, np.ones((10, 1)))
    latent(timeline, 9000)
    execute(timeline, 9000, [1] * 5)
    step = latent(timeline, T0)
    assert step.index == 0
    assert step.start == T0
    assert not step.running.any()
    assert timeline.executed == {}


def test_a_frame_out_of_order_is_ignored_and_resets_nothing(timeline):
    latent(timeline, T0)
    latent(timeline, T0 + LENGTH)
    assert latent(timeline, T0 + LENGTH - PERIOD) is None
    assert latent(timeline, T0 + 2 * LENGTH).index == 2


def test_memory_is_bounded(timeline):
    for k in range(1000):
        latent(timeline, T0 + k * LENGTH)
        execute(timeline, T0 + k * LENGTH, [0] * 5)
        timeline.buffer.put(T0 + (k + 1) * LENGTH, np.zeros((10, 1)))
    assert len(timeline.executed) < 100
    assert len(timeline.buffer.plans) < 4


@pytest.mark.parametrize("bad", [[1.0, 2.0], [np.nan]])
def test_unusable_executed_actions_are_refused(timeline, bad):
    with pytest.raises(ValueError, match="executed"):
        timeline.add_executed(T0, bad)

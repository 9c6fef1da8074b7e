import numpy as np
import pytest

from world_model_ros.planning.timeline import Timeline
from world_model_ros.safety.action_buffer import ActionBuffer

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


@pytest.mark.parametrize(("offset", "taken"), [(-62, True), (62, True), (-63, False), (63, False)])
def test_a_frame_counts_within_a_quarter_of_a_model_step(timeline, offset, taken):
    latent(timeline, T0)
    step = latent(timeline, T0 + LENGTH + offset)
    assert (step is not None) == taken
    if taken:
        assert (step.start, step.stamp, step.due) == (T0 + LENGTH, T0 + LENGTH + offset, T0 + 2 * LENGTH)


def test_the_same_stamp_again_is_no_new_step(timeline):
    assert latent(timeline, T0) is not None
    assert latent(timeline, T0) is None


@pytest.mark.parametrize(
    ("jitter", "expected"),
    [(0, [1, 2, 3, 4, 5]), (20, [0.6, 1.6, 2.6, 3.6, 4.6]), (-20, [1.4, 2.4, 3.4, 4.4, 5.4])],
)
def test_executed_block_is_what_really_went_out_between_the_frames(timeline, jitter, expected):
    latent(timeline, T0)
    execute(timeline, T0, [1, 2, 3, 4, 5, 6], jitter)
    step = latent(timeline, T0 + LENGTH)
    assert step.executed[:, 0] == pytest.approx(expected)
    assert step.known == (jitter <= 0)  # what went out just before the first frame is not known


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


def test_the_grid_lies_on_the_control_steps_once_they_are_known(timeline):
    latent(timeline, T0 + 6)
    execute(timeline, T0, [1] * 5)
    step = latent(timeline, T0 + LENGTH + 6)
    assert (step.index, step.start, step.due) == (1, T0 + LENGTH, T0 + 2 * LENGTH)
    execute(timeline, T0 + LENGTH, [1] * 5, jitter=9)  # a little late, and all the same
    assert latent(timeline, T0 + 2 * LENGTH + 6).start == T0 + 2 * LENGTH
    execute(timeline, T0 + 2 * LENGTH, [1] * 5, jitter=20)  # command_node has begun anew
    assert latent(timeline, T0 + 3 * LENGTH + 6).start == T0 + 3 * LENGTH + 20


def test_time_set_far_ahead_begins_anew(timeline):
    latent(timeline, T0)
    step = latent(timeline, T0 + 10**15)
    assert (step.index, step.start) == (0, T0 + 10**15)
    assert timeline.missed == 0


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


RATES = [10, 15, 20, 24, 30, 60]
MS = 1_000_000


def camera(rate, seconds, jitter=10 * MS, seed=0, first=0):
    """Return the stamps of a camera's frames, in order, no two nearer than 10 ms."""
    rng = np.random.default_rng(seed)
    stamps = []
    for n in range(int(seconds * rate)):
        stamp = first + round(n * 1e9 / rate) + int(rng.integers(-jitter, jitter + 1))
        if not stamps or stamp >= stamps[-1] + 10 * MS:
            stamps.append(stamp)
    return stamps


def run(timeline, stamps, speed=lambda t: 0.1):
    """Let control steps of 50 ms and frames come in the order of time; return (time, model step) handed over.

    ``speed(t)`` is what goes out in the control step that begins at ``t``.
    """
    events = [(at, 1, None) for at in stamps] + [(t, 0, t) for t in range(0, stamps[-1] + 1, 50 * MS)]
    found = []
    for at, _, tick in sorted(events, key=lambda event: event[:2]):
        step = latent(timeline, at) if tick is None else timeline.add_executed(at, [speed(at)])
        if step is not None:
            found.append((at, step))
    return found


@pytest.fixture
def robot():
    return Timeline(50 * MS, 5, 1, ActionBuffer(50 * MS, 500 * MS))


@pytest.mark.fault
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("first", [0, 13 * MS, 37 * MS])
def test_fault_57_every_model_step_of_a_camera_off_the_grid_has_a_frame(robot, rate, first):
    found = run(robot, camera(rate, 60, first=first + 10 * MS))
    steps = [step for _, step in found]
    assert [step.index for step in steps] == list(range(len(steps)))
    assert len(steps) >= 238
    assert robot.missed <= 1
    assert robot.too_slow == ""
    assert 0.55 * rate < robot.rate < 1.15 * rate  # at 60 Hz jitter makes frames drop
    assert all(step.executed is not None for step in steps[1:])
    assert all(step.known for step in steps[2:])
    assert all(step.start % (50 * MS) == 0 for step in steps[1:])  # plans are played by control steps
    # The plan is due a block after the start: most of that is left when the step is handed over.
    assert max(at - step.start for at, step in found[1:]) <= 120 * MS


@pytest.mark.fault
@pytest.mark.parametrize("rate", RATES)
def test_fault_57_a_step_takes_the_nearest_frame_but_waits_for_none_longer_than_the_rate_says(robot, rate):
    stamps = camera(rate, 30, first=10 * MS)
    for at, step in run(robot, stamps)[4:]:
        best = min(abs(stamp - step.start) for stamp in stamps)
        assert abs(step.stamp - step.start) <= best + 20 * MS  # jitter cannot be known beforehand
        assert at - step.stamp <= 1.5e9 / rate + 20 * MS


@pytest.mark.fault
@pytest.mark.parametrize("rate", RATES)
def test_fault_57_actions_are_cut_at_the_frames_own_stamps(robot, rate):
    def speed(t):
        return float(np.sin(t / 3e8))

    def way(begin, end):  # what a robot drives between two moments
        edges = np.unique([begin, *range(-(-begin // (50 * MS)) * 50 * MS, end, 50 * MS), end])
        return sum(speed(a - a % (50 * MS)) * (b - a) / 1e9 for a, b in zip(edges, edges[1:], strict=False))

    for _, step in run(robot, camera(rate, 20, first=10 * MS), speed)[2:]:
        assert step.known
        assert 0.05 * step.executed.sum() == pytest.approx(way(step.previous, step.stamp), abs=1e-9)
        parts = np.linspace(step.previous, step.stamp, 6).round().astype(int)
        ways = [way(int(a), int(b)) for a, b in zip(parts, parts[1:], strict=False)]
        np.testing.assert_allclose(0.05 * step.executed[:, 0], ways, atol=1e-7)


@pytest.mark.fault
def test_fault_57_what_runs_begins_at_the_frame_and_ends_when_the_plan_is_due(robot):
    for tick in range(10):
        robot.add_executed(tick * 50 * MS, [1.0])
    latent(robot, 200 * MS)
    robot.buffer.put(450 * MS, np.full((10, 1), 2.0))
    step = latent(robot, 490 * MS)
    assert (step.start, step.due) == (450 * MS, 700 * MS)
    # 10 ms of what went out at 450 ms, then 200 ms of the plan: less than a model step.
    assert 0.05 * step.running.sum() == pytest.approx(0.010 * 1.0 + 0.200 * 2.0)
    assert step.running[0, 0] == pytest.approx((0.010 * 1.0 + 0.032 * 2.0) / 0.05)
    assert step.running[1:, 0] == pytest.approx(0.042 * 2.0 / 0.05)


@pytest.mark.fault
@pytest.mark.parametrize("rate", [3.0, 5.0, 6.5])
def test_fault_57_a_camera_that_is_too_slow_is_named_with_both_rates(robot, rate):
    run(robot, camera(rate, 20, first=10 * MS))
    assert robot.missed > 4
    assert f"{robot.rate:.1f} frames a second, at least 10.0 are needed" in robot.too_slow
    assert robot.rate == pytest.approx(rate, rel=0.1)
    run(robot, camera(30, 10, first=20_010 * MS))
    assert robot.too_slow == ""


def test_a_slow_camera_in_step_with_the_grid_is_good_enough_also_after_a_pause(robot):
    stamps = [k * 250 * MS for k in range(80) if not 20 <= k < 40]
    steps = [step for _, step in run(robot, stamps)]
    assert [step.index for step in steps] == [*range(20), *range(40, 80)]
    assert robot.missed == 20
    assert robot.too_slow == ""


def test_a_frame_kept_back_is_handed_over_when_the_nearer_one_does_not_come(robot):
    found = run(robot, [at * MS for at in (0, 110, 220, 330, 440, 660, 770, 880)])
    kept = {step.index: (at // MS, step.stamp // MS) for at, step in found}
    assert kept[2] == (600, 440)  # once that of 550 ms is overdue, not with the frame after
    assert kept[3] == (770, 770)


def test_a_plan_that_came_late_counts_once_it_is_known(timeline):
    latent(timeline, T0)
    step = latent(timeline, T0 + LENGTH)
    assert not step.running.any()
    timeline.buffer.put(T0 + LENGTH, np.full((10, 1), 7.0))
    execute(timeline, T0, [1, 2, 3, 4, 5])
    execute(timeline, T0 + LENGTH, [9])  # asked for a moment later, the answer is the same
    step = timeline.refreshed(step)
    assert step.running[:, 0].tolist() == [7] * 5
    assert step.executed[:, 0].tolist() == [1, 2, 3, 4, 5]


def test_a_block_in_which_nothing_went_out_is_a_gap(timeline):
    timeline.buffer.put(T0, np.full((10, 1), 7.0))
    latent(timeline, T0)
    step = latent(timeline, T0 + LENGTH)
    assert step.executed is None
    execute(timeline, T0 + LENGTH, [1] * 5)
    assert latent(timeline, T0 + 2 * LENGTH).known


def test_frames_that_are_older_than_their_stamps_are_cut_at_when_they_were_taken(timeline):
    timeline.take_latency(2 * PERIOD)
    execute(timeline, T0 - 2 * PERIOD, range(20))
    steps = [latent(timeline, T0 + i * PERIOD) for i in range(11)]
    first, second, third = (step for step in steps if step is not None)
    assert (first.stamp, first.start, first.latency) == (T0 - 2 * PERIOD, T0 - 2 * PERIOD, 2 * PERIOD)
    assert second.due == T0 - 2 * PERIOD + 2 * LENGTH
    assert second.executed.ravel().tolist() == [0, 1, 2, 3, 4]
    assert third.executed.ravel().tolist() == [5, 6, 7, 8, 9]
    by_latency = timeline.executed_by_latency(third)
    assert [block.ravel().tolist() for block in by_latency] == [
        [first, first + 1, first + 2, first + 3, first + 4] for first in (7, 6, 5, 4, 3)
    ]


def test_a_latency_that_is_found_later_moves_the_frames_and_not_the_grid(timeline):
    execute(timeline, T0, range(40))
    before = [latent(timeline, T0 + i * PERIOD) for i in range(6)]
    assert [step is not None for step in before] == [True, *[False] * 4, True]
    timeline.take_latency(PERIOD)
    after = [latent(timeline, T0 + i * PERIOD) for i in range(6, 17)]
    (step, following) = (step for step in after if step is not None)
    assert (step.start, step.stamp) == (T0 + 2 * LENGTH, T0 + 2 * LENGTH)
    assert step.previous == T0 + LENGTH - PERIOD  # the frame of the step before was older, too
    assert step.executed.sum() == pytest.approx(sum(range(4, 10)))
    assert following.executed.ravel().tolist() == [10, 11, 12, 13, 14]
    timeline.take_latency(0)
    last = [latent(timeline, T0 + i * PERIOD) for i in range(17, 22)]
    assert [s.stamp for s in last if s is not None] == [T0 + 4 * LENGTH]


def test_what_was_sent_by_latency_is_known_only_where_all_of_it_is(timeline):
    steps = [latent(timeline, T0)]
    execute(timeline, T0, range(6))
    steps.append(latent(timeline, T0 + LENGTH))
    assert timeline.executed_by_latency(steps[0]) is None  # nothing came before
    assert steps[1].known
    assert timeline.executed_by_latency(steps[1]) is None  # of a later time nothing had been sent
    execute(timeline, T0 + 6 * PERIOD, range(6, 11))
    assert timeline.executed_by_latency(latent(timeline, T0 + 2 * LENGTH)) is not None


@pytest.mark.parametrize("latency", [-1, LENGTH])
def test_a_latency_is_a_part_of_a_model_step(timeline, latency):
    with pytest.raises(ValueError, match="no part of a model step"):
        timeline.take_latency(latency)
    assert timeline.latency == 0


def test_what_was_sent_since_an_old_frame_was_taken_counts_before_what_was_planned(timeline):
    timeline.take_latency(2 * PERIOD)
    timeline.buffer.put(T0 - 2 * PERIOD, np.full((10, 1), 7.0))
    execute(timeline, T0 - 2 * PERIOD, [1, 2])
    assert latent(timeline, T0).running.ravel().tolist() == [1, 2, 7, 7, 7]

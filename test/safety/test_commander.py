import itertools

import numpy as np
import pytest

from world_model_ros.safety.commander import Rules, State
from world_model_ros.safety.health import Health
from world_model_ros.safety.joints import JointCollector
from world_model_ros.safety.limits import Limits

MS = 1_000_000
NAMES = ("linear_x", "linear_y")


def still(decision):
    return decision.action is not None and decision.action.tolist() == [0, 0]


def test_sends_nothing_before_there_is_a_robot_a_camera_and_a_plan(bench):
    decision = bench.tick(joints=False, frame=False)
    assert (decision.state, decision.action) == (State.WAITING, None)
    assert "joint_states" in decision.reason
    decision = bench.tick(frame=False)
    assert (decision.state, decision.action) == (State.WAITING, None)
    assert "camera/image_raw" in decision.reason
    decision = bench.tick()
    assert (decision.state, decision.action) == (State.READY, None)
    assert not bench.commander.ever_moved


def test_plays_the_plan_within_limits_and_counts_what_it_clamped(bench):
    bench.tick()
    bench.commander.plan(bench.now, NAMES, bench.now, [[0.1, -0.2], [5.0, 0.0]])
    assert bench.tick().action.tolist() == [0.1, -0.2]
    decision = bench.tick()
    assert decision.action.tolist() == [0.4, 0.0]
    assert "within the limits" in decision.reason
    assert bench.commander.counts["clamped"] == 1


def test_a_plan_for_later_does_not_move_the_robot_now(bench):
    bench.tick()
    bench.plan(start=bench.now + 3 * bench.period)
    states = [d.state for d in bench.ticks(4)]
    assert states == [State.READY] * 3 + [State.RUNNING]


def test_standing_still_is_commanded_once_on_leaving_running_even_where_nothing_else_is_sent(bench):
    """After the clock was set back the state is WAITING, in which nothing is sent: but for one."""
    bench.run()
    bench.now -= 100 * bench.period
    first, second = bench.ticks(2, joints=False, frame=False)
    assert first.state is State.WAITING
    assert still(first)
    assert (second.state, second.action) == (State.WAITING, None)


def test_settling_outside_of_a_control_step_is_not_said_again(bench):
    bench.run()
    bench.commander.stop()
    assert not bench.commander.moving
    assert bench.tick(joints=False, frame=False).action is None


def test_hold_keeps_commanding_stillness_once_it_has_moved(bench):
    bench.run()
    decisions = bench.ticks(40)
    held = [d for d in decisions if d.state is State.HOLD]
    assert len(held) > 20
    assert all(map(still, held))
    assert bench.commander.counts["holds"] == 1


def test_a_hold_before_the_first_motion_sends_nothing(bench):
    bench.ticks(3)
    decisions = bench.ticks(10, frame=False)
    assert decisions[-1].state is State.HOLD
    assert all(d.action is None for d in decisions)


@pytest.mark.parametrize(
    ("names", "actions"),
    [
        (("linear_y", "linear_x"), [[0.1, 0.1]]),
        (NAMES, []),
        (NAMES, [[0.1]]),
        (NAMES, [[0.1, float("nan")]]),
        (NAMES, [[0.1, float("inf")]]),
    ],
)
def test_unusable_plans_are_refused_with_a_reason(bench, names, actions):
    bench.run()
    assert "plan" in bench.commander.plan(bench.now, names, bench.now, actions)
    assert bench.commander.counts["rejected_plans"] == 1
    assert bench.tick().action.tolist() == [0.1, 0.1]


def test_says_state_and_reason_only_when_they_change(bench):
    assert [d.changed for d in bench.ticks(2)] == [True, False]
    bench.plan()
    assert [d.changed for d in bench.ticks(2)] == [True, False]
    assert bench.commander.state == (State.RUNNING, "playing the plan")


def test_the_state_is_known_before_the_first_control_step(bench):
    assert bench.commander.state[0] is State.WAITING


def test_a_plan_that_starts_again_steps_away_from_standing_still(make_bench):
    limits = Limits(NAMES, (-0.4, -0.4), (0.4, 0.4), max_step=(0.1, 0.1))
    bench = make_bench(limits, Rules(clamped_steps=1000))
    actions = [d.action[0] for d in bench.ticks(6, plan=0.4) if d.moving]
    np.testing.assert_allclose(actions, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    bench.ticks(15)
    assert bench.decisions[-1].state is State.HOLD
    assert bench.tick(plan=0.4).action[0] == pytest.approx(0.1)


def test_joint_ends_are_respected_with_measured_positions(make_bench):
    limits = Limits(NAMES, (-1, -1), (1, 1), position_low=(-2, -2), position_high=(2, 2))
    bench = make_bench(limits)
    bench.positions = np.array([1.99, 2.5])
    decision = bench.tick(plan=1.0)
    np.testing.assert_allclose(decision.action, [0.2, 0.0])  # 0.01 rad in 0.05 s; outside: only back
    assert bench.commander.positions().tolist() == [1.99, 2.5]


@pytest.mark.fault
@pytest.mark.parametrize("seconds", [0.7, 1.9, 60.0])
def test_fault_49_plans_of_a_clock_that_is_ahead_are_never_played_and_the_status_says_why(bench, seconds):
    def ahead():
        problem = bench.plan(start=bench.now + round(1000 * seconds) * MS)
        return problem, bench.tick()

    bench.run()
    bench.commander.buffer.clear()
    for problem, decision in (ahead() for _ in range(100)):
        assert f"begins {seconds:.1f} s ahead" in problem
        assert decision.state is State.HOLD
        assert decision.reason == (
            "no plan covers the present time: plans begin too far ahead: synchronise the computers' clocks"
        )
    assert bench.commander.buffer.plans == []
    assert bench.tick(plan=0.1).moving


@pytest.mark.fault
@pytest.mark.parametrize("milliseconds", [500, 2000])
def test_fault_49_plans_that_come_after_their_time_are_named(bench, milliseconds):
    def behind():
        assert bench.plan(start=bench.now - milliseconds * MS) == ""
        return bench.tick()

    bench.ticks(3)
    assert {behind().reason for _ in range(40)} == {
        "waiting for the first plan: plans come after their time: synchronise the computers' clocks, or let "
        "planner_node plan faster"
    }
    bench.run()
    for _ in range(40):
        behind()
    assert "no plan covers the present time: plans come after their time" in bench.decisions[-1].reason
    assert "standing still until one comes" in bench.ticks(110)[-1].reason  # no plan comes at all any more
    assert bench.tick(plan=0.1).moving


def test_a_plan_that_comes_after_its_time_ends_none_that_is_played(bench):
    bench.run()
    bench.plan(0.3, start=bench.now)
    bench.plan(0.2, start=bench.now - 600 * MS)
    assert bench.tick().action.tolist() == [0.3, 0.3]


@pytest.mark.fault
def test_fault_01_without_an_image_nothing_is_sent_and_the_topic_is_named(bench):
    decisions = bench.ticks(100, frame=False, plan=0.1)
    assert {(d.state, d.action) for d in decisions} == {(State.WAITING, None)}
    assert "camera/image_raw" in decisions[-1].reason
    # What encoder_node knows of the cause is said here too.
    cause = "no image yet: nobody publishes /camera/image_raw, images are on /front"
    bench.report("encoder_node", no_image=cause)
    assert bench.tick(frame=False).reason.endswith(f"(nothing on latent): {cause}")
    bench.report("encoder_node", Health.HOLD, "the picture is black", no_image=cause)
    assert bench.tick(frame=False).reason.endswith("(nothing on latent): encoder_node: the picture is black")
    bench.report("encoder_node", no_image=cause)  # a second late
    assert bench.tick().state is State.RUNNING


@pytest.mark.fault
def test_fault_02_a_camera_that_stops_means_hold_in_time_and_a_return_takes_fresh_frames(bench):
    bench.run()
    last_frame = bench.now - bench.period
    decisions = bench.ticks(10, frame=False, plan=0.1)
    stopped = next(i for i, d in enumerate(decisions) if not d.moving)
    first_stop = last_frame + (stopped + 1) * bench.period
    assert first_stop - last_frame <= 300 * MS  # the timeout, and one control step
    assert {d.state for d in decisions[stopped:]} == {State.HOLD}
    assert all(map(still, decisions[stopped:]))
    assert "camera/image_raw" in decisions[-1].reason
    back = bench.ticks(3, plan=0.1)
    assert [d.moving for d in back] == [False, False, True]  # three fresh frames


def test_a_clock_that_runs_ahead_of_a_frame_on_its_way_is_no_camera_that_stops(bench):
    bench.run()
    bench.commander.plan(bench.now, NAMES, bench.now, [[0.1, 0.1]] * 10)
    for _ in range(2):
        bench.now += 4 * bench.period
        bench.steady += 20 * MS
        bench.joints()
        assert bench.commander.tick(bench.now, bench.steady).state is State.RUNNING
    bench.steady += 200 * MS
    decision = bench.commander.tick(bench.now, bench.steady)
    assert decision.state is State.HOLD
    assert "camera/image_raw" in decision.reason
    # It does not make one frame enough, where several are needed.
    bench.commander.frame(bench.now, bench.steady, bench.now)
    assert bench.commander.tick(bench.now, bench.steady).state is State.HOLD


def test_a_camera_that_stutters_is_not_back(bench):
    bench.run()
    bench.ticks(10, frame=False, plan=0.1)
    for _ in range(5):
        assert not any(d.moving for d in [bench.tick(plan=0.1), *bench.ticks(8, frame=False, plan=0.1)])


def test_a_frame_with_a_stamp_far_ahead_counts_as_no_fresher_than_a_control_step(bench):
    bench.run()
    bench.commander.frame(bench.now, bench.steady, bench.now + 3600_000 * MS)
    decisions = bench.ticks(10, frame=False, plan=0.1)
    assert decisions[-1].state is State.HOLD


@pytest.mark.fault
def test_fault_10_and_11_joints_that_stay_away_mean_hold(bench):
    """Joint states with a joint missing or named twice are refused, so they stay away."""
    bench.run()
    decisions = bench.ticks(20, joints=False, plan=0.1)
    stopped = next(i for i, d in enumerate(decisions) if not d.moving)
    assert (stopped + 1) * bench.period <= 550 * MS
    assert {d.state for d in decisions[stopped:]} == {State.HOLD}
    assert "joint_states" in decisions[-1].reason
    assert bench.tick(plan=0.1).moving


@pytest.mark.fault
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_fault_13_a_plan_that_is_not_finite_is_never_played(bench, broken):
    bench.run()
    assert "not finite" in bench.plan(broken)
    decisions = bench.ticks(30)
    assert all(np.isfinite(d.action).all() for d in decisions)
    assert decisions[-1].state is State.HOLD


@pytest.mark.fault
def test_fault_14_actions_outside_the_limits_are_clamped_and_persistent_ones_are_a_fault(bench):
    bench.ticks(3)
    decisions = bench.ticks(60, plan=9.0)
    moved = [d for d in decisions if d.moving]
    assert len(moved) == 39
    assert all(d.action.tolist() == [0.4, 0.4] for d in moved)
    assert {d.state for d in decisions[39:]} == {State.FAULT}
    assert all(map(still, decisions[39:]))
    assert "outside the limits" in decisions[-1].reason
    assert bench.commander.counts == {"clamped": 40, "rejected_plans": 0, "holds": 0, "faults": 1}


@pytest.mark.fault
def test_fault_55_actions_outside_the_limits_are_a_fault_again_within_a_second_of_a_reset(bench):
    bench.ticks(3)
    bench.ticks(60, plan=9.0)
    for _ in range(3):
        bench.commander.reset()
        moved = [decision for decision in bench.ticks(60, plan=9.0) if decision.moving]
        assert 0 < len(moved) < 20
        assert bench.decisions[-1].state is State.FAULT
    bench.commander.reset()
    assert bench.ticks(5, plan=0.1)[-1].moving
    assert sum(decision.moving for decision in bench.ticks(60, plan=9.0)) == 39  # as after a start
    bench.commander.take(Rules(clamped_steps=50))  # the operator lets it be
    bench.commander.reset()
    assert sum(decision.moving for decision in bench.ticks(60, plan=9.0)) == 49


@pytest.mark.fault
def test_fault_55_a_slow_start_within_the_limits_ends_no_suspicion(make_bench):
    bench = make_bench(Limits(NAMES, (-0.4, -0.4), (0.4, 0.4), max_step=(0.05, 0.05)))
    signs = itertools.cycle((1, -1))
    bench.ticks(3)
    for _ in range(60):
        bench.tick(plan=0.2 * next(signs))
    assert bench.decisions[-1].state is State.FAULT
    bench.commander.release()
    bench.ticks(20)
    bench.commander.reset()
    moved = [d for d in (bench.tick(plan=0.2 * next(signs)) for _ in range(60)) if d.moving]
    assert len(moved) < 30  # 0.5 s of it the slow start
    assert bench.decisions[-1].state is State.FAULT


@pytest.mark.fault
def test_fault_14_a_step_above_the_largest_one_is_clamped(make_bench):
    limits = Limits(NAMES, (-0.4, -0.4), (0.4, 0.4), max_step=(0.05, 0.05))
    bench = make_bench(limits)
    actions = np.array([d.action for d in bench.ticks(6, plan=(0.2, -0.4)) if d.action is not None])
    assert np.abs(np.diff(actions, axis=0)).max() <= 0.05 + 1e-12
    assert bench.commander.counts["clamped"] > 3


def end_stop_bench(make_bench, positions, max_step=None):
    """Return a commander of two joints with ends at 2 rad, measured at ``positions``."""
    limits = Limits(
        NAMES, (-0.8, -0.8), (0.8, 0.8), max_step, position_low=(-2.0, -2.0), position_high=(2.0, 2.0)
    )
    bench = make_bench(limits)
    bench.positions = np.array(positions)
    return bench


@pytest.mark.fault
@pytest.mark.parametrize("measured", [-2.0, -1.99, -2.02])
@pytest.mark.parametrize("max_step", [None, (0.4, 0.4)])
def test_fault_14_a_joint_pressed_against_its_end_is_held_there_for_ever_and_named(
    make_bench, measured, max_step
):
    bench = end_stop_bench(make_bench, (0.0, measured), max_step)
    for _ in range(200):  # the other joint goes on
        decision = bench.tick(plan=(0.1, -0.6))
        if decision.moving:
            assert -0.2 - 1e-9 <= decision.action[1] <= 0
            assert bench.positions[1] + 0.05 * decision.action[1] >= min(measured, -2.0) - 1e-9
    assert decision.state is State.RUNNING
    assert decision.action[0] == 0.1
    assert decision.reason == "held at limits.position_low of linear_y: the goal may lie beyond it"
    assert bench.commander.counts["faults"] == 0
    bench.positions = np.array([0.0, -1.0])  # away from its end, and free again
    decision = bench.ticks(3, plan=(0.1, -0.6))[-1]
    assert decision.reason == "playing the plan"
    assert decision.action[1] == -0.6


@pytest.mark.fault
@pytest.mark.parametrize(
    ("positions", "plans", "words"),
    [
        ((0.0, -2.0), [(0.1, -9.0)], "were outside the limits (limits.low)"),
        ((0.0, -2.0), [(9.0, -0.1)], "were outside the limits (limits.high)"),
        ((0.0, -2.0), [(0.1, -0.6), (0.1, 0.6)], "were outside the limits (limits.max_step)"),
        ((0.0, -2.5), [(0.1, -0.1)], "ask a joint that is outside of its range to go on"),
    ],
)
def test_fault_14_wrong_actions_are_a_fault_also_where_a_joint_is_at_its_end(
    make_bench, positions, plans, words
):
    bench = end_stop_bench(make_bench, positions, (0.4, 0.4))
    bench.ticks(3)
    for number in range(60):
        decision = bench.tick(plan=plans[number % len(plans)])
        assert decision.moving == (number < 39)
    assert decision.state is State.FAULT
    assert still(decision)
    assert words in decision.reason


def test_a_reached_goal_at_the_end_of_a_joint_is_said_to_be_reached(make_bench):
    bench = end_stop_bench(make_bench, (0.0, -2.0))
    bench.report("planner_node", reached="false")
    bench.ticks(10, plan=(0.0, -0.3))
    bench.report("planner_node", reached="true")
    assert bench.ticks(3, plan=0.0)[-1].reason.startswith("the goal is reached")


def test_clamping_now_and_then_is_no_fault(bench):
    bench.ticks(3)
    for _ in range(5):
        assert all(d.moving for d in bench.ticks(39, plan=9.0))
        assert bench.tick(plan=0.1).moving


@pytest.mark.fault
def test_fault_16_a_late_planner_is_served_from_its_last_plan_then_hold(bench):
    bench.run()  # its newest plan has ten steps, the first of them played
    decisions = bench.ticks(15)
    assert [d.moving for d in decisions] == [True] * 9 + [False] * 6
    assert {d.state for d in decisions[9:]} == {State.HOLD}
    assert still(decisions[9])
    assert "no plan covers the present time" in decisions[-1].reason


def test_a_long_plan_is_not_played_for_longer_than_its_age_allows(bench):
    bench.ticks(3)
    bench.plan(steps=1000)
    assert sum(d.moving for d in bench.ticks(100)) == 10


@pytest.mark.fault
def test_fault_17_a_planner_in_fault_stops_the_robot_until_reset(bench):
    bench.report("planner_node")
    bench.run()
    bench.report("planner_node", Health.FAULT, "a plan has not ended for 5 s")
    decision = bench.tick(plan=0.1)
    assert decision.state is State.FAULT
    assert still(decision)
    assert "planner_node: a plan has not ended" in decision.reason
    bench.report("planner_node", Health.FINE, "")
    assert {d.state for d in bench.ticks(20, plan=0.1)} == {State.FAULT}
    bench.commander.reset()
    assert bench.ticks(3, plan=0.1)[-1].moving


@pytest.mark.fault
def test_fault_20_a_plan_that_runs_out_means_hold_and_the_next_one_goes_on(bench):
    bench.run()
    assert bench.ticks(15)[-1].state is State.HOLD
    assert bench.tick(plan=0.3).action.tolist() == [0.3, 0.3]


@pytest.mark.fault
def test_fault_21_a_node_that_is_gone_stops_the_robot_and_its_return_goes_on(bench):
    for name in ("encoder_node", "planner_node", "monitor_node"):
        bench.report(name)
    bench.run()
    del bench.nodes["planner_node"]
    assert all(d.moving for d in bench.ticks(4, plan=0.1))
    decision = bench.ticks(2, plan=0.1)[-1]
    assert decision.state is State.HOLD
    assert still(decision)
    assert "planner_node does not respond (last heartbeat 0." in decision.reason
    bench.report("planner_node")
    assert bench.tick(plan=0.1).moving


@pytest.mark.fault
def test_fault_29_a_clock_set_back_resets_all_inputs(bench):
    bench.run()
    bench.plan(start=bench.now - 20 * bench.period)
    bench.now -= 20 * bench.period
    decision = bench.tick(joints=False, frame=False)
    assert decision.state is State.WAITING
    assert still(decision)
    assert bench.commander.buffer.plans == []
    assert not any(d.moving for d in bench.ticks(5))
    assert bench.tick(plan=0.1).moving


@pytest.mark.fault
@pytest.mark.parametrize("steps", [2, 10_000])
def test_fault_29_a_simulated_clock_that_leaps_ahead_resets_all_inputs(bench, steps):
    bench.run()
    bench.now += steps * 5 * bench.period
    decision = bench.tick(joints=False, frame=False)
    assert decision.state is State.WAITING
    assert still(decision)
    assert bench.commander.buffer.plans == []
    assert not any(d.moving for d in bench.ticks(5))
    assert bench.tick(plan=0.1).moving


@pytest.mark.fault
def test_a_simulated_clock_whose_messages_are_lost_resets_nothing(bench):
    bench.run()
    bench.now += 5 * bench.period
    assert bench.tick(plan=0.1).moving


@pytest.mark.fault
def test_fault_29_what_was_heard_during_a_leap_of_the_clock_does_not_count_as_fresh(bench):
    bench.run()
    leap = 3600_000 * MS
    bench.commander.joints(bench.now + leap, bench.steady, bench.joint_names, bench.positions)
    bench.commander.frame(bench.now + leap, bench.steady, bench.now)
    decisions = bench.ticks(30, joints=False, frame=False, plan=0.1)
    assert not decisions[-1].moving
    bench.ticks(3, plan=0.1)
    assert bench.tick(plan=0.1).moving


@pytest.mark.fault
def test_fault_36_a_hold_of_the_monitor_lasts_while_it_is_asked_for(bench):
    bench.report("monitor_node")
    bench.run()
    bench.report("monitor_node", Health.HOLD, "the picture is like none seen in training")
    decisions = bench.ticks(5, plan=0.1)
    assert {d.state for d in decisions} == {State.HOLD}
    assert all(map(still, decisions))
    assert "like none seen in training" in decisions[0].reason
    bench.report("monitor_node", Health.WARNING, "")
    assert bench.tick(plan=0.1).moving


@pytest.mark.fault
def test_fault_39_plans_on_another_scale_end_in_a_fault(bench):
    """Degrees taken for radians: nearly every action is beyond the limits."""
    bench.ticks(3)
    rng = np.random.default_rng(0)
    for _ in range(60):
        bench.commander.plan(bench.now, NAMES, bench.now, np.rad2deg(rng.choice([-0.3, 0.3], (10, 2))))
        bench.tick()
    assert bench.decisions[-1].state is State.FAULT
    assert "for this robot" in bench.decisions[-1].reason


@pytest.mark.fault
def test_fault_40_an_emergency_stop_is_latched_until_reset(bench):
    bench.run()
    bench.commander.emergency_stop()
    decisions = bench.ticks(100, plan=0.3)
    assert {d.state for d in decisions} == {State.FAULT}
    assert all(map(still, decisions))
    assert "emergency stop" in decisions[0].reason
    bench.now -= 1000 * bench.period  # neither does a clock set back clear it
    assert bench.tick(plan=0.3).state is State.FAULT
    bench.commander.begin()
    assert bench.tick(plan=0.3).state is State.FAULT
    bench.commander.reset()
    assert bench.tick(joints=False, frame=False).state is State.WAITING  # it begins anew
    assert bench.tick(plan=0.3).moving


@pytest.mark.fault
def test_fault_40_plans_from_before_a_reset_are_not_played(bench):
    bench.run()
    bench.commander.emergency_stop()
    bench.plan(0.3)
    bench.commander.reset()
    bench.plan(0.2, start=bench.now + 5 * bench.period)
    assert not any(d.moving for d in bench.ticks(5))
    assert bench.tick().action.tolist() == [0.2, 0.2]


def test_an_hour_of_control_steps_leaves_nothing_behind(bench, resident):
    def steps(count):
        for step in range(count):
            bench.joints()
            if step % 5 == 0:
                bench.commander.frame(bench.now, bench.steady, bench.now)
                bench.commander.plan(bench.now, NAMES, bench.now + 5 * bench.period, np.full((25, 2), 0.1))
            moving = bench.commander.tick(bench.now, bench.steady).moving
            bench.now += bench.period
            bench.steady += bench.period
        return moving

    assert steps(1000)
    before = resident()
    assert steps(72_000)
    assert resident() - before < 5
    assert len(bench.commander.buffer.plans) <= 3


@pytest.fixture
def arm(make_bench):
    limits = Limits(NAMES, (-0.4, -0.4), (0.4, 0.4), None, (-3, -3), (3, 3))
    return make_bench(limits, real=True, joints=JointCollector(NAMES, speed=(0.4, 0.4)))


@pytest.mark.fault
@pytest.mark.parametrize("seconds", [-5.0, 5.0])
def test_fault_49_a_clock_that_is_set_stops_the_robot_at_once_and_is_named(make_bench, seconds):
    bench = make_bench(real=True).run()
    bench.plan(start=bench.now + round(seconds * 1000) * MS)  # of the old time, on its way
    bench.now += round(seconds * 1000) * MS
    decision = bench.tick(plan=0.1)
    assert decision.state is State.HOLD
    assert still(decision)
    word = "back" if seconds < 0 else "forward"
    assert f"the clock was set {word} by 5.0 s" in decision.reason
    assert not any(d.moving for d in bench.ticks(19, plan=0.1))
    assert bench.ticks(3, plan=0.1)[-1].moving


def test_a_clock_that_is_steered_and_a_computer_that_hangs_set_no_clock(make_bench):
    bench = make_bench(real=True).run()
    for _ in range(100):
        bench.now += 5 * MS
        assert bench.tick(plan=0.1).moving
    bench.now += 3600_000 * MS
    bench.steady += 3600_000 * MS
    assert "clock" not in bench.tick(plan=0.1).reason


@pytest.mark.fault
def test_fault_29_where_the_joints_are_is_known_when_a_clock_set_back_stops_the_robot(make_bench):
    bench = make_bench(Limits(NAMES, (-0.4, -0.4), (0.4, 0.4), None, (-3, -3), (3, 3))).run()
    bench.now -= 100 * bench.period
    assert still(bench.tick(joints=False, frame=False))
    assert bench.commander.positions().tolist() == [0.0, 0.0]
    bench.commander.stop()  # as when the clock stands
    assert bench.commander.positions().tolist() == [0.0, 0.0]


@pytest.mark.fault
def test_fault_41_every_stop_stops_whatever_came_before(bench):
    for _ in range(20):
        bench.run()
        bench.commander.emergency_stop()
        assert {d.state for d in bench.ticks(5, plan=0.1)} == {State.FAULT}
        bench.commander.reset()


@pytest.mark.fault
def test_fault_55_a_lasting_fault_is_back_with_the_next_heartbeat_and_nothing_moves_before(bench):
    bench.report("planner_node")
    bench.run()
    bench.report("planner_node", Health.FAULT, "a plan has not ended")
    bench.tick(plan=0.1)
    lasting = bench.nodes.pop("planner_node")
    bench.commander.reset()
    decisions = bench.ticks(4, plan=0.1)
    assert {d.state for d in decisions[1:]} == {State.WAITING}
    assert "planner_node has not reported since the reset" in decisions[-1].reason
    bench.nodes["planner_node"] = lasting
    assert bench.tick(plan=0.1).state is State.FAULT


@pytest.mark.fault
def test_fault_53_no_plan_is_played_while_planning_is_disabled(bench):
    bench.report("planner_node", enabled="false", enable_calls="0")
    assert bench.ticks(3)[-1].state is State.READY
    decision = bench.ticks(3, plan=0.1)[-1]
    assert decision.state is State.RELEASED
    assert "planning is disabled" in decision.reason
    assert decision.action is None
    bench.report("planner_node", enabled="true", enable_calls="1")
    assert bench.ticks(3, plan=0.1)[-1].moving


@pytest.mark.fault
def test_fault_53_a_stop_goes_out_before_the_silence_however_short_the_rest_is(make_bench):
    bench = make_bench(rules=Rules(release_after=0.0)).run()
    bench.commander.release()
    assert still(bench.tick())
    assert bench.tick().action is None
    bench.commander.emergency_stop()
    assert still(bench.tick())
    assert bench.tick().action is None
    assert bench.commander.state[0] is State.FAULT


@pytest.mark.fault
def test_fault_41_a_stop_reaches_a_released_robot_that_this_process_never_moved(bench):
    bench.commander.release()
    assert bench.ticks(3)[-1].action is None
    bench.commander.emergency_stop()
    assert all(still(decision) for decision in bench.ticks(3))
    assert bench.ticks(12)[-1].action is None


@pytest.mark.fault
def test_fault_41_after_a_time_in_which_a_stop_may_have_been_lost_a_person_decides(make_bench):
    bench = make_bench(real=True).run()
    bench.now += 1200 * MS
    bench.steady += 1200 * MS
    decision = bench.tick(plan=0.1)
    assert decision.state is State.FAULT
    assert "did not run for 1.2 s" in decision.reason or "did not run for 1.3 s" in decision.reason
    assert still(decision)
    bench.commander.reset()
    assert bench.ticks(4, plan=0.1)[-1].moving


@pytest.mark.fault
def test_fault_43_another_command_node_stops_ours_until_it_is_silent(bench):
    bench.run()
    bench.commander.report("command_node", bench.steady, Health.FINE)
    decision = bench.tick(plan=0.1)
    assert decision.state is State.HOLD
    assert "another command_node" in decision.reason
    assert still(decision)
    assert bench.ticks(21, plan=0.1)[-1].moving


@pytest.mark.fault
def test_fault_46_a_reset_overrides_the_monitors_hold_slowly_and_for_a_while(bench):
    bench.report("monitor_node")
    bench.run()
    bench.report("monitor_node", Health.HOLD, "strange")
    assert "command/reset goes on for 5 s at 0.25" in bench.tick(plan=0.4).reason
    assert "in spite of monitor_node: strange" in bench.commander.reset()
    decisions = bench.ticks(110, plan=0.4)
    moved = [d for d in decisions if d.moving]
    assert 95 <= len(moved) <= 101
    assert {tuple(d.action) for d in moved} == {(0.1, 0.1)}
    assert "in spite of monitor_node: strange" in moved[0].reason
    assert decisions[-1].state is State.HOLD


@pytest.mark.fault
def test_fault_46_only_the_monitors_hold_is_overridden_and_a_plan_beyond_the_limits_is_slow_too(bench):
    bench.report("monitor_node")
    bench.run()
    bench.report("monitor_node", Health.HOLD, "strange")
    bench.commander.reset()
    assert bench.tick(plan=9.0).action.tolist() == [0.1, 0.1]
    bench.report("planner_node", Health.HOLD, "no progress")
    assert {d.state for d in bench.ticks(20, plan=0.4)} == {State.HOLD}


@pytest.mark.fault
def test_fault_47_the_third_hold_of_the_monitor_after_motion_is_a_fault(bench):
    for _ in range(3):
        bench.report("monitor_node")
        bench.run()
        bench.report("monitor_node", Health.HOLD, "surprised")
        bench.ticks(20, plan=0.1)
    assert bench.decisions[-1].state is State.FAULT
    assert "3 times within 20 s" in bench.decisions[-1].reason


def test_holds_of_the_monitor_that_are_far_apart_are_no_fault(bench):
    for _ in range(6):
        bench.report("monitor_node")
        bench.run()
        bench.report("monitor_node", Health.HOLD, "surprised")
        bench.ticks(240, plan=0.1)
        assert bench.decisions[-1].state is State.HOLD


@pytest.mark.fault
def test_fault_53_a_release_stops_is_silent_and_is_taken_back_slowly(bench):
    bench.run()
    bench.commander.release()
    decisions = bench.ticks(30, plan=0.4)
    assert {d.state for d in decisions} == {State.RELEASED}
    assert all(map(still, decisions[:10]))
    assert [d.action for d in decisions[11:]] == [None] * 19
    assert decisions[-1].released
    bench.commander.reset()
    assert bench.tick(joints=False, plan=0.4).state is State.WAITING  # joints are to be fresh
    shares = [d.action[0] / 0.4 for d in bench.ticks(12, plan=0.4)]
    assert shares == pytest.approx([0.1 * (i + 1) for i in range(9)] + [1.0] * 3)


@pytest.mark.fault
def test_fault_53_a_release_in_a_fault_ends_the_sending_and_stays_a_fault(bench):
    bench.run()
    bench.commander.emergency_stop()
    bench.tick()
    bench.commander.release()
    decision = bench.ticks(12)[-1]
    assert (decision.state, decision.action) == (State.FAULT, None)
    assert "nothing is sent" in decision.reason


def test_a_release_before_anything_has_moved_is_silent_at_once(bench):
    bench.ticks(3)
    bench.commander.release()
    assert all(d.action is None for d in bench.ticks(20, plan=0.1))


@pytest.mark.fault
def test_fault_09_the_encoders_own_report_is_the_cause_and_stays_it(bench):
    bench.report("encoder_node")
    bench.run()
    bench.report("encoder_node", Health.HOLD, "camera/image_raw: frozen")
    decisions = bench.ticks(40, frame=False, plan=0.1)
    assert {d.reason for d in decisions} == {"encoder_node: camera/image_raw: frozen"}


@pytest.mark.fault
@pytest.mark.parametrize(("hertz", "slow"), [(5, True), (10, False), (20, False)])
def test_fault_57_a_camera_that_is_too_slow_is_named_with_both_rates(make_bench, hertz, slow):
    bench = make_bench(real=True)
    every = 20 // hertz
    for i in range(80):
        decision = bench.tick(frame=i % every == 0, plan=0.1)
    assert decision.moving != slow
    if slow:
        assert decision.reason == "camera/image_raw is too slow: 5.0 Hz seen, 10 Hz needed"


def test_a_camera_that_shows_each_model_step_and_nothing_else_is_fast_enough(bench):
    for i in range(80):
        decision = bench.tick(frame=i % 5 == 0, plan=0.1)
    assert decision.moving


def test_what_the_planner_needs_is_said(bench):
    bench.report("planner_node", enabled="false", goal="false")
    reason = bench.tick().reason
    assert "no goal" in reason
    assert "planner/enable" in reason


@pytest.mark.fault
def test_fault_50_nobody_knows_where_joints_are_that_two_publishers_tell_differently(arm):
    arm.run()
    arm.commander.joints(arm.now, arm.steady, arm.joint_names, [0.5, 0.0])
    decision = arm.tick(plan=0.1)
    assert decision.state is State.HOLD
    assert "jumped" in decision.reason
    assert arm.commander.positions() is None  # so that no pose is asked for
    assert arm.ticks(12, plan=0.1)[-1].moving


def test_where_the_robot_was_before_it_was_deactivated_is_forgotten(arm):
    arm.run()
    assert arm.commander.ever_moved
    arm.commander.begin()
    assert arm.commander.positions() is None
    assert not arm.commander.ever_moved


def test_that_the_goal_is_reached_is_said_once_and_only_while_the_plan_stands_still(bench):
    bench.report("planner_node", enabled="true", goal="true", reached="false")
    bench.ticks(6, plan=0.1)
    bench.report("planner_node", enabled="true", goal="true", reached="true")
    assert bench.tick(plan=0.1).reason == "playing the plan"  # the block that was planned before
    decisions = bench.ticks(20, plan=0.0)
    assert [d.changed for d in decisions] == [True] + 19 * [False]
    assert decisions[0].state is State.RUNNING
    assert decisions[0].reason.startswith("the goal is reached: standing still")
    bench.report("planner_node", enabled="true", goal="true", reached="false")
    assert bench.tick(plan=0.0).reason == "playing the plan"


def test_fault_62_a_stop_that_may_be_lost_is_a_fault_where_a_plan_has_moved_the_robot(bench):
    bench.tick()
    assert not bench.commander.may_have_missed("it")
    assert bench.tick().state is State.READY
    bench.run()
    assert bench.commander.may_have_missed("it")
    decision = bench.tick()
    assert decision.state is State.FAULT
    assert (
        decision.reason == "it may have missed an emergency stop: look at the robot, then call command/reset"
    )
    assert still(decision)


def test_fault_62_a_fault_keeps_its_reason_and_a_released_robot_is_left_alone(bench):
    bench.run()
    bench.commander.emergency_stop()
    assert bench.commander.may_have_missed("it")
    assert bench.tick().reason == "emergency stop: call command/reset to go on"
    bench.commander.reset()
    bench.run()
    bench.commander.release()
    assert not bench.commander.may_have_missed("it")
    assert bench.tick().state is State.RELEASED

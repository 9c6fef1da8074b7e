import pytest

from test.safety.conftest import MS, NAMES, Bench
from world_model_ros.safety.action_buffer import ActionBuffer
from world_model_ros.safety.commander import Commander, Rules, State
from world_model_ros.safety.dead_man import DeadMan, button_pressed
from world_model_ros.safety.limits import Limits

SECOND = 1000 * MS


@pytest.fixture
def switch():
    return DeadMan("/joy", timeout=0.5)


class HeldBench(Bench):
    """A bench whose dead-man switch is in a hand."""

    def __init__(self):
        super().__init__(rules=Rules(dead_man_timeout=0.3))
        limits = Limits(NAMES, (-0.4, -0.4), (0.4, 0.4))
        buffer = ActionBuffer(self.period, SECOND // 2)
        self.commander = Commander(limits, buffer, Rules(dead_man_timeout=0.3), dead_man=DeadMan("/joy"))
        self.pressed = True  # None: no messages

    def tick(self, **inputs):
        if self.pressed is not None:
            self.commander.dead_man.heard(self.steady, self.pressed)
        return super().tick(**inputs)


@pytest.fixture
def held():
    return HeldBench()


def test_without_a_topic_no_switch_is_needed():
    assert DeadMan().problem(0) == ""


def test_a_switch_that_was_never_heard_is_not_pressed(switch):
    assert switch.problem(0) == "no message on /joy yet: commands need a pressed dead-man switch"
    switch.heard(0, True)
    assert switch.problem(0) == ""
    switch.reset()
    assert switch.problem(0)


def test_a_switch_that_is_not_heard_within_the_timeout_is_lost(switch):
    switch.heard(0, True)
    assert switch.problem(SECOND // 2) == ""
    assert "no message on /joy for 0.5 s" in switch.problem(SECOND // 2 + 1)
    switch.heard(SECOND, True)
    assert switch.problem(SECOND) == ""


def test_a_release_counts_also_where_the_switch_is_pressed_again_at_once(switch):
    switch.heard(0, True)
    switch.heard(1, False)
    switch.heard(2, True)
    assert switch.problem(3) == "the dead-man switch on /joy was released"
    assert switch.problem(4) == ""


def test_a_button_that_is_not_there_is_not_pressed(switch):
    assert button_pressed([0, 1], 1) == (True, "")
    assert button_pressed([0, 1], 0) == (False, "")
    pressed, problem = button_pressed([0, 1], 5)
    switch.heard(0, pressed, problem)
    assert "it has 2 buttons, dead_man.button is 5" in switch.problem(0)


@pytest.mark.fault
def test_fault_62_nothing_is_sent_before_the_switch_is_pressed(held):
    held.pressed = None
    decisions = held.ticks(6, plan=0.1)
    held.pressed = False
    decisions += held.ticks(6, plan=0.1)
    assert all(d.action is None for d in decisions)
    assert decisions[5].state is State.HOLD
    assert "no message on /joy yet" in decisions[5].reason
    assert decisions[-1].reason == "the dead-man switch on /joy is not pressed"


@pytest.mark.fault
@pytest.mark.parametrize(
    ("pressed", "cause"), [(False, "is not pressed"), (None, "no message on /joy for 0.3 s")]
)
def test_fault_62_a_switch_that_is_released_or_lost_stops_the_robot_and_motion_begins_slowly_again(
    held, pressed, cause
):
    held.ticks(20, plan=0.1)
    assert held.decisions[-1].action == pytest.approx([0.1, 0.1])
    held.pressed = pressed
    decisions = held.ticks(1 if pressed is False else 7, plan=0.1)
    assert decisions[-1].state is State.HOLD
    assert cause in decisions[-1].reason
    assert not decisions[-1].action.any()
    held.pressed = True
    shares = [d.action[0] / 0.1 for d in held.ticks(11, plan=0.1)]
    assert shares == pytest.approx([0.1 * (i + 1) for i in range(9)] + [1.0, 1.0])


@pytest.mark.fault
def test_fault_62_a_stop_is_a_stop_with_the_switch_pressed_and_a_reset_needs_it(held):
    held.run()
    held.commander.emergency_stop()
    assert held.tick(plan=0.1).state is State.FAULT
    held.pressed = False
    assert held.tick(plan=0.1).state is State.FAULT  # the worse cause is the one that is told
    held.commander.reset()
    decisions = held.ticks(5, plan=0.1)
    assert decisions[-1].state is State.HOLD
    assert not any(d.moving for d in decisions)

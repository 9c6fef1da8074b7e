"""The command side under everything that may happen to it, in any order: what must never be sent.

The pure twin of test/nodes/test_safety_machine.py: the same causes, on clocks of its own, many more times.
"""

import math
import re

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from world_model_ros.safety.action_buffer import ActionBuffer
from world_model_ros.safety.commander import SIMULATED_LEAP, Commander, Rules, State
from world_model_ros.safety.dead_man import DeadMan
from world_model_ros.safety.health import GONE, LONGEST_LOOK, Health
from world_model_ros.safety.joints import JointCollector
from world_model_ros.safety.limits import LEASH, Limits, PoseKeeper
from world_model_ros.safety.watchdogs import ClockWatch

MS = 1_000_000
SECOND = 1000 * MS
PERIOD = 50 * MS
MAX_AGE = 500 * MS
NAMES = ("joint1", "joint2")
LOW, HIGH = np.array([-0.4, -0.1]), np.array([0.4, 0.2])
ENDS = np.array([-2.0, -1.0]), np.array([2.0, 1.0])
MAX_STEP = np.array([0.1, 0.3])
NODES = ("encoder_node", "planner_node", "monitor_node")

finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.one_of(st.floats(-0.5, 0.5), finite, st.floats())
tame = st.floats(-0.5, 0.5)
smooth = st.floats(-0.09, 0.09)
delays = st.integers(-3 * PERIOD, 12 * PERIOD)
sources = st.sampled_from(NODES)
TROUBLES = (
    "frames",
    "joints",
    "plans",
    "back",
    "ahead",
    "future frame",
    "stop",
    "hung",
    "hold",
    "monitor",
    "fault",
    "stands",
    "by hand",
    "doubled",
    "release",
    "disable",
    "rival",
    "inactive",
    "let go",
    "switch lost",
)


class CommanderMachine(RuleBasedStateMachine):
    @initialize(
        real=st.booleans(),
        stepped=st.booleans(),
        ended=st.booleans(),
        clamped=st.sampled_from([2, 40]),
        held=st.booleans(),
    )
    def begin(self, real, stepped, ended, clamped, held):
        self.held = held  # whether a dead-man switch is needed
        self.real, self.stepped, self.ended = real, stepped, ended
        ends = {"position_low": ENDS[0], "position_high": ENDS[1]} if ended else {}
        limits = Limits(NAMES, LOW, HIGH, MAX_STEP if stepped else None, **ends)
        self.rules = Rules(clamped_steps=clamped)
        collector = JointCollector(NAMES if ended else (), speed=np.maximum(-LOW, HIGH) if ended else None)
        clock = ClockWatch(2 * PERIOD if real else None)
        buffer, switch = ActionBuffer(PERIOD, MAX_AGE), DeadMan("/joy" if held else "")
        self.commander = Commander(limits, buffer, self.rules, collector, clock, switch)
        # When the switch was heard last, what it repeats (None: nothing), and whether it was released since.
        self.switch_heard, self.pressed, self.let_go = -math.inf, True, False
        self.switch_down = False  # in the newest message
        self.keeper = PoseKeeper(limits, PERIOD / SECOND)
        self.now, self.steady = 10 * SECOND, 5000 * SECOND
        self.looked = None  # the two clocks at the last call that took them
        self.pose = np.zeros(2)
        self.reported = None  # (age, steady, positions) of the newest report
        self.leapt = self.jumped = -math.inf  # when, on the steady clock
        self.health = dict.fromkeys(NODES, Health.FINE)
        self.heard, self.awake, self.last_awake = {}, 0.0, None
        self.hung = set(NODES)  # until they are there
        self.enabled, self.calls, self.goal = True, 0, True
        self.enabled_heard = None
        self.just_released = False  # an enable that is heard next came before
        self.rival = -math.inf
        self.moving = self.fault = self.stopped = False
        self.released = ""  # by whom
        self.clear = set()  # nodes whose fault was cleared and that have not reported since
        self.released_at = None
        self.taken_over = self.ramp_began = None
        self.overridden = -math.inf
        self.monitor_holds = 0
        self.sent = np.zeros(2)
        self.reset_inputs()

    # The inputs that the commander must have reset, and what it knows.

    def reset_inputs(self):
        self.frame_heard = self.joints_heard = self.last = None
        self.frames, self.newest_frame = 0, -math.inf  # since the last time that they were missing
        self.played = False
        self.starts = []

    @property
    def age(self):
        return self.steady if self.real else self.now

    def call(self):
        """Every call that takes the time notices when the clock was set."""
        if self.looked is not None:
            passed, steady = self.now - self.looked[0], self.steady - self.looked[1]
            if not self.real and (passed < 0 or passed > SIMULATED_LEAP * SECOND * self.rules.step):
                self.reset_inputs()
                self.sent = np.zeros(2)
                self.ramp_began = None if self.ramp_began is None else min(self.ramp_began, self.now)
            elif self.real and abs(passed - steady) > 2 * PERIOD:
                self.leapt, self.starts = self.steady, []
        self.looked = self.now, self.steady
        if self.leapt + SECOND > self.steady:
            self.starts = []

    def pass_period(self, early=0):
        self.now += PERIOD + early
        self.steady += PERIOD + early
        self.beat()

    def beat(self):
        """The heartbeats of the nodes that run, and of the dead-man switch unless it is lost (None)."""
        if self.pressed is not None:
            self.switch(self.pressed)
        for name in NODES:
            if name not in self.hung:
                self.report(name)

    def report(self, name):
        values = {"instance": "1"}
        if name == "planner_node":
            values |= {"enabled": str(self.enabled).lower(), "enable_calls": str(self.calls)}
            values |= {"goal": str(self.goal).lower()}
            before, self.enabled_heard = self.enabled_heard, (self.enabled, self.calls)
            grew = before is not None and self.calls > before[1] and not self.just_released
            self.just_released = False
            was_enabled = self.played if before is None else before[0]
            if was_enabled and not self.enabled and not self.released:
                self.released, self.released_at = "planner", self.age
            elif self.released and self.enabled and grew:
                self.take_over()
        self.look()
        self.heard[name] = self.awake
        self.clear.discard(name)
        self.commander.report(name, self.steady, self.health[name], "its reason", values=values)
        if self.health[name] is Health.FAULT:
            self.fault_reported = True

    def look(self):
        if self.last_awake is not None:
            self.awake += min((self.steady - self.last_awake) / SECOND, LONGEST_LOOK)
        self.last_awake = self.steady

    def take_over(self):
        self.released, self.released_at = "", None
        self.taken_over, self.ramp_began = self.age, None
        self.reset_inputs()
        self.sent = np.zeros(2)

    # What happens.

    @rule(steps=st.integers(1, 4), early=st.integers(-5 * MS, 5 * MS))
    def pass_time(self, steps, early):
        for _ in range(steps - 1):
            self.pass_period()
        self.pass_period(early)
        self.tick()

    @rule(seconds=st.floats(0.1, 10.0))
    def hang_ourselves(self, seconds):
        """Our own process gets no processor for a while; nobody else is to blame."""
        self.now += round(seconds * SECOND)
        self.steady += round(seconds * SECOND)
        self.tick()

    @rule(steps=st.integers(2, 12), action=st.tuples(tame, tame))
    def run_smoothly(self, steps, action, withheld=""):
        for _ in range(steps):
            if withheld != "joints":
                self.joints(self.pose)
            if withheld != "frames":
                self.frame(0)
            if withheld != "plans":
                self.plan(0, [action] * 10)
            self.tick()
            self.pose = self.pose + self.sent * PERIOD / SECOND
            self.pass_period()

    @rule(
        action=st.one_of(st.tuples(smooth, smooth), st.tuples(tame, tame)),
        trouble=st.sampled_from(TROUBLES),
        steps=st.sampled_from([1, 4, 8, 14, 40]),
        supplied=st.booleans(),
    )
    def run_into_trouble(self, action, trouble, steps, supplied):
        """Come to motion, as often as that can be had; then something happens to it."""
        self.everybody_is_well_again()
        self.reset()
        self.run_smoothly(4, action)
        if trouble == "back":
            self.now -= 7 * PERIOD
        elif trouble == "ahead":
            self.now += 7 * PERIOD
        elif trouble == "future frame":
            self.frame(2**40)
            trouble = "frames"
        elif trouble == "stop":
            self.emergency_stop()
        elif trouble == "hung":
            self.hang("planner_node")
        elif trouble in ("hold", "fault"):
            self.report_health("encoder_node", Health[trouble.upper()])
        elif trouble == "monitor":
            self.report_health("monitor_node", Health.HOLD)
        elif trouble == "stands":
            self.the_clock_stands()
        elif trouble == "by hand":
            self.move_by_hand((0.5, -0.5))
        elif trouble == "doubled":
            self.joints(self.pose + 0.3)
        elif trouble == "release":
            self.release()
        elif trouble == "disable":
            self.enable(False)
        elif trouble == "rival":
            self.another_one_commands()
        elif trouble == "inactive":
            self.deactivate()
        elif trouble in ("let go", "switch lost"):
            self.pressed = False if trouble == "let go" else None
        self.now = max(1, self.now)
        if trouble in ("frames", "joints", "plans"):
            self.run_smoothly(14, action, withheld=trouble)  # longer than every timeout
        elif supplied:
            self.run_smoothly(steps, action)
        else:
            for _ in range(steps):
                self.tick()
                self.pass_period()

    @rule(joint=st.integers(0, 1), high=st.booleans(), steps=st.sampled_from([10, 50]), other=smooth)
    def press_against_an_end(self, joint, high, steps, other):
        """The goal lies beyond the range of a joint: it is held there, and that is no fault."""
        self.everybody_is_well_again()
        self.reset()
        self.pose = np.zeros(2)
        self.pose[joint] = ENDS[high][joint] - (0.01 if high else -0.01)
        action = np.full(2, other if self.ended else 0.0)
        action[joint] = 0.09 if high else -0.09
        for _ in range(steps):
            before = self.commander.counts["faults"]
            self.run_smoothly(1, tuple(action))
            if self.ended:
                assert (self.pose >= ENDS[0] - 1e-6).all()
                assert (self.pose <= ENDS[1] + 1e-6).all()
            assert self.commander.counts["faults"] == before or "outside the limits" not in self.last[1]

    @rule(leap=st.one_of(st.integers(-(10**7), -1), st.integers(-(10**12), -1), st.integers(0, 10**12)))
    def set_clock(self, leap):
        self.now = max(1, self.now + leap)

    @rule(positions=st.tuples(finite, finite))
    def joints_anywhere(self, positions):
        self.joints(np.clip(np.array(positions), -1e6, 1e6))

    @rule(distance=st.tuples(tame, tame))
    def move_by_hand(self, distance):
        self.pose = self.pose + np.array(distance)
        self.joints(self.pose)

    def joints(self, positions, which=(0, 1)):
        self.call()
        names = [NAMES[i] for i in which]
        places = [float(positions[i]) for i in which]
        assert not self.commander.joints(self.now, self.steady, names, places)
        known = np.full(2, np.nan) if self.reported is None else self.reported[2].copy()
        for i in which:
            if np.isfinite(known[i]) and abs(known[i] - positions[i]) > 0.01:
                self.jumped = self.age
            known[i] = positions[i]
        self.reported = self.age, self.steady, known
        if self.joints_heard is None:
            self.joints_heard = {}
        for i in which if self.ended else (0, 1):
            self.joints_heard[i] = self.age

    @rule(which=st.sampled_from([(0,), (1,)]))
    def joints_in_part(self, which):
        self.joints(self.pose, which)

    @rule(
        names=st.sampled_from([(), ("finger",), ("joint3", "finger")]), value=st.sampled_from([0.0, math.nan])
    )
    def joints_of_others(self, names, value):
        self.call()
        problem = self.commander.joints(self.now, self.steady, names, [value] * len(names))
        if self.ended:
            assert not problem
        elif not problem:
            self.joints_heard = {0: self.age, 1: self.age}

    @rule(i=st.integers(0, 1))
    def joints_not_finite(self, i):
        self.call()
        positions = [math.nan] * 2
        positions[i] = self.pose[i]
        assert self.commander.joints(self.now, self.steady, NAMES, positions)
        if self.ended:
            self.joints(self.pose, (i,))

    @rule(stamp=st.one_of(st.integers(-PERIOD, PERIOD), st.integers(-(2**62), 2**62)))
    def frame(self, stamp):
        self.call()
        self.commander.frame(self.now, self.steady, self.now + stamp)
        self.frame_heard = self.age
        moment = self.age + min(max(0, stamp), PERIOD)
        if moment > self.newest_frame:  # one that is no newer than the last does not count
            self.frames, self.newest_frame = self.frames + 1, moment

    @rule(delay=delays, actions=st.lists(st.tuples(numbers, numbers), max_size=12))
    def plan(self, delay, actions):
        problem = self.commander.plan(self.now, NAMES, self.now + delay, actions)
        ahead = delay > 2 * SECOND * self.rules.step
        assert bool(problem) == (not actions or not np.isfinite(actions).all() or ahead)
        if not problem and not self.fault and not self.released:
            if self.enabled_heard is not None and not self.enabled_heard[0]:
                self.released, self.released_at = "planner", self.age
            else:
                self.starts.append(self.now + delay)

    @rule(
        names=st.lists(st.text(max_size=3), max_size=3),
        actions=st.sampled_from([[], [[]], [[1.0]], np.zeros((2, 3)), np.zeros((1, 2, 2)), 1.0]),
    )
    def plan_nonsense(self, names, actions):
        assert self.commander.plan(self.now, tuple(names), self.now, actions)
        assert self.commander.plan(self.now, NAMES, self.now, actions)

    @rule(name=sources, health=st.sampled_from(Health))
    def report_health(self, name, health):
        """A node changes what it reports, and repeats that from now on."""
        self.health[name] = health
        self.hung.discard(name)
        self.report(name)

    @rule(name=sources)
    def hang(self, name):
        self.hung.add(name)

    @rule()
    def everybody_is_well_again(self):
        self.pressed = True
        self.calls += not self.enabled
        self.enabled, self.goal = True, True
        for name in NODES:
            self.report_health(name, Health.FINE)

    @rule(enabled=st.booleans())
    def enable(self, enabled):
        self.enabled = enabled
        self.calls += enabled
        if "planner_node" not in self.hung:
            self.report("planner_node")

    @rule()
    def no_goal(self):
        self.goal = False

    @rule()
    def another_one_commands(self):
        self.commander.report("command_node", self.steady, Health.FINE)
        self.rival = self.steady

    @rule()
    def release(self):
        self.commander.release()
        if not self.released:
            self.released_at, self.long_released = self.age, 0
        self.released, self.starts = "person", []
        self.just_released = True

    @rule()
    def emergency_stop(self):
        self.commander.emergency_stop()
        self.fault = self.stopped = True
        self.starts = []
        if self.released:  # the stop is sent all the same, for a moment
            self.released_at, self.long_released = self.age, 0

    @rule()
    def reset(self):
        self.commander.reset()
        self.keeper.reset()
        self.fault = self.stopped = False
        faulty = {name for name in self.heard if self.health[name] is Health.FAULT}
        self.clear |= faulty
        if self.health["monitor_node"] is Health.HOLD:
            self.overridden = self.age
        else:
            self.overridden = -math.inf
        self.monitor_holds = 0
        if self.released:
            self.take_over()
        self.reset_inputs()
        self.sent = np.zeros(2)

    @rule()
    def the_clock_stands(self):
        """The robot is stopped from outside, as no control step comes to do it."""
        if self.moving:
            self.commander.stop()
            self.check_pose(np.zeros(2), False)
            self.moving, self.sent = False, np.zeros(2)
            self.reset_inputs()

    @rule()
    def deactivate(self):
        """And activate again: the safe command goes out, and where the robot is then nobody knows."""
        if self.commander.ever_moved and not self.commander.released:
            self.check_pose(np.zeros(2), False)
        self.commander.begin()
        self.switch_heard, self.let_go = -math.inf, False
        self.keeper.reset()
        self.looked = self.reported = None
        self.leapt = -math.inf
        self.moving, self.sent = False, np.zeros(2)
        self.reset_inputs()
        assert self.commander.positions(self.steady) is None

    # The control step, and what must be true of it.

    @rule(pressed=st.booleans())
    def switch(self, pressed):
        """Press or release the dead-man switch; it repeats that from now on."""
        self.commander.dead_man.heard(self.steady, pressed)
        self.switch_heard, self.pressed, self.switch_down = self.steady, pressed, pressed
        self.let_go = self.let_go or not pressed

    @rule()
    def switch_is_lost(self):
        self.pressed = None

    @rule()
    def tick(self):
        self.call()
        self.look()
        lost = self.steady - self.switch_heard > self.rules.dead_man_timeout * SECOND
        self.not_held, self.let_go = self.held and (self.let_go or lost or not self.switch_down), False
        if self.not_held:
            self.taken_over, self.ramp_began = self.age, None
        decision = self.commander.tick(self.now, self.steady)
        action = decision.action
        self.check_state(decision)
        self.check_reason(decision)
        self.check_release(decision)
        if action is not None:
            assert action.shape == (2,)
            assert np.isfinite(action).all()
            assert (action >= LOW).all()
            assert (action <= HIGH).all()
            self.check_pose(action, decision.moving)
        if decision.moving:
            self.check_motion(action)
        else:
            assert action is None or not action.any()
            if self.moving:
                assert action is not None, "the first command after motion is standing still"
        if "monitor_node" in decision.reason and self.moving and not decision.moving:
            self.monitor_holds += 1
        self.moving = decision.moving
        self.played = self.played or self.moving
        self.sent = np.zeros(2) if action is None else action
        self.fault = decision.state is State.FAULT
        self.stopped = self.stopped and self.fault

    def check_state(self, decision):
        assert decision.changed == ((decision.state, decision.reason) != self.last)
        self.last = decision.state, decision.reason
        assert decision.reason
        faulty = {name for name in self.heard if self.health[name] is Health.FAULT} - self.clear
        if self.fault or self.stopped or faulty:
            assert decision.state is State.FAULT
        if decision.state in (State.FAULT, State.HOLD) and self.moving:
            assert decision.action is not None

    def check_reason(self, decision):
        """The sentence names a cause that is true."""
        state, reason = decision.state, decision.reason
        silent = {n for n in self.heard if self.awake - self.heard[n] > self.rules.lease - 1e-6}
        for name in NODES:
            if f"{name} does not respond" in reason:
                assert name in silent
            if f"{name}: its reason" in reason and state is not State.FAULT:
                assert self.health[name] > Health.FINE
        if state is not State.FAULT:
            self.check_cause(decision, reason)
        elif reason.startswith("emergency stop"):
            assert self.stopped
        elif "3 times within" in reason:
            assert self.monitor_holds >= 2  # and the one that this is
        elif "were outside the limits" in reason:
            assert re.search(r"limits\.(low|high|max_step)", reason), "to be held at an end is no fault"
        elif "outside of its range" in reason:
            assert self.ended
        if state is State.READY and "no goal" in reason:
            assert not self.goal

    def check_cause(self, decision, reason):
        true = {
            "joint_states stopped": lambda: any(
                self.age - at > self.rules.joint_timeout * SECOND for at in self.joints_heard.values()
            ),
            "jumped": lambda: 0 <= self.age - self.jumped <= SECOND,
            "the clock was set": lambda: self.steady - self.leapt <= SECOND,
            "another command_node": lambda: self.steady - self.rival <= GONE * SECOND + 1000,
            "command/release was called": lambda: self.released == "person",
            "planning is disabled": lambda: self.released == "planner",
            "after the reset": lambda: self.age - self.overridden <= self.rules.override_time * SECOND,
            "not reported since": lambda: bool(self.clear),
            "/joy": lambda: self.not_held,
            "held at": lambda: self.ended and (self.commander.positions(self.steady) is not None),
        }
        for words, condition in true.items():
            assert words not in reason or condition(), reason
        if "camera/image_raw stopped" in reason:
            late = self.age - self.frame_heard > self.rules.image_timeout * SECOND
            self.frames = 0 if late else self.frames
            assert self.frames < self.rules.fresh_frames
        if decision.state is State.RELEASED:
            assert self.released

    def check_release(self, decision):
        assert not decision.released or decision.action is None
        assert not decision.released or self.released
        if decision.released and decision.state is State.FAULT:
            assert "nothing is sent" in decision.reason
        if self.released and self.released_at is not None:
            if self.age < self.released_at:  # a simulated clock was set back
                self.released_at = self.age
            if self.age - self.released_at > (self.rules.release_after + 0.5) * SECOND and not self.moving:
                self.long_released = getattr(self, "long_released", 0) + 1
            else:
                self.long_released = 0
            # Clocks may leap: silence is due after the time to rest has passed in control steps, too.
            if self.long_released > 12:
                assert decision.action is None
        else:
            self.long_released = 0

    def check_pose(self, action, moving):
        """No pose is farther from the measured one than the limits allow."""
        if not self.ended:
            return
        measured = self.commander.positions(self.steady)
        poses = self.keeper.poses(action, moving, measured)
        if poses is None:
            return
        assert self.reported is not None
        assert self.steady - self.reported[1] <= self.rules.pose_timeout * SECOND
        np.testing.assert_array_equal(measured, self.reported[2])
        reach = (LEASH + 1.5 * PERIOD / SECOND) if moving else PERIOD / SECOND
        slack = 1e-9 + 1e-12 * np.abs(measured)
        for place in (poses.end, poses.last):
            assert (place - measured <= HIGH * reach + slack).all()
            assert (place - measured >= LOW * reach - slack).all()
        assert ((poses.velocity == 0) | (poses.velocity == action)).all()

    def check_motion(self, action):
        assert not self.not_held
        assert not self.stopped
        assert not self.released
        assert not self.clear
        assert self.frame_heard is not None
        assert self.age >= self.frame_heard
        recent = self.age - self.frame_heard <= self.rules.image_timeout * SECOND + PERIOD
        assert recent or not self.real
        assert len(self.joints_heard) == 2
        for heard in self.joints_heard.values():
            assert 0 <= self.age - heard <= self.rules.joint_timeout * SECOND
        assert any(start - PERIOD <= self.now < start + MAX_AGE for start in self.starts)
        assert self.steady - self.rival > GONE * SECOND - 1000  # floats
        assert not self.real or self.steady - self.leapt >= SECOND
        for name in self.heard:
            assert self.awake - self.heard[name] <= 2.0 + 0.1
            holds = self.health[name] >= Health.HOLD
            if name == "monitor_node" and holds:
                assert self.age - self.overridden <= self.rules.override_time * SECOND
                assert (np.abs(action) <= 0.25 * np.maximum(-LOW, HIGH) + np.abs(self.sent) + 1e-9).all()
            else:
                assert not holds
        self.check_ramp(action)
        at_the_end = False
        if self.ended:
            positions = self.reported[2]
            reached = positions + action * PERIOD / SECOND
            for i in range(2):
                low, high, slack = ENDS[0][i], ENDS[1][i], 1e-9
                assert action[i] <= 0 or reached[i] <= high + slack
                assert action[i] >= 0 or reached[i] >= low - slack
                room = np.minimum(high - positions[i], positions[i] - low)
                at_the_end = at_the_end or room < 0.4 * PERIOD / SECOND
                if "held at" in self.last[1] and NAMES[i] in self.last[1]:
                    slack = max(LEASH * max(HIGH[i], -LOW[i]), 0.05) + 1e-9
                    assert abs(room) <= slack, "it stands at its end"
        if self.stepped and not at_the_end:
            assert (np.abs(action - self.sent) <= MAX_STEP + 1e-12).all()

    def check_ramp(self, action):
        if self.taken_over is None:
            return
        if self.ramp_began is None or self.age < self.ramp_began:
            self.ramp_began = self.age
        share = (self.age - self.ramp_began + PERIOD) / (self.rules.ramp * SECOND)
        if share >= 1:
            self.taken_over = self.ramp_began = None
            return
        assert (action <= HIGH * share + np.abs(self.sent) + 1e-9).all()
        assert (action >= LOW * share - np.abs(self.sent) - 1e-9).all()

    @precondition(lambda self: self.clear)
    @rule()
    def a_cause_that_lasts_is_back_within_a_second(self):
        lasting = [name for name in self.clear if name not in self.hung]
        for _ in range(20):
            self.pass_period()
            self.tick()
            assert not self.moving
        if lasting:
            assert self.fault


TestCommander = CommanderMachine.TestCase

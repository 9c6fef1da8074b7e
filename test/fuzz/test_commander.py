"""The command side under everything that may happen to it, in any order: what must never be sent."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from world_model_ros.control.commander import Commander, Rules, State
from world_model_ros.control.health import Health
from world_model_ros.control.limits import Limits
from world_model_ros.planning.action_buffer import ActionBuffer

MS = 1_000_000
PERIOD = 50 * MS
MAX_AGE = 500 * MS
NAMES = ("joint1", "joint2")
LOW, HIGH = np.array([-0.4, -0.1]), np.array([0.4, 0.2])
ENDS = np.array([-2.0, -1.0]), np.array([2.0, 1.0])
MAX_STEP = np.array([0.1, 0.3])

finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.one_of(st.floats(-0.5, 0.5), finite, st.floats())
tame = st.floats(-0.5, 0.5)
calm = st.floats(-0.09, 0.09)
delays = st.integers(-3 * PERIOD, 12 * PERIOD)
sources = st.sampled_from(["encoder_node", "planner_node", "monitor_node"])


class CommanderMachine(RuleBasedStateMachine):
    @initialize(stepped=st.booleans(), ended=st.booleans(), clamped=st.sampled_from([2, 40]))
    def begin(self, stepped, ended, clamped):
        self.stepped, self.ended = stepped, ended
        ends = {"position_low": ENDS[0], "position_high": ENDS[1]} if ended else {}
        limits = Limits(NAMES, LOW, HIGH, MAX_STEP if stepped else None, **ends)
        self.rules = Rules(clamped_steps=clamped)
        self.commander = Commander(limits, ActionBuffer(PERIOD, MAX_AGE), self.rules)
        self.now = 10**9
        self.last_call = self.now
        self.positions = None
        self.health, self.alive, self.seen = {}, {}, set()
        self.moving = self.fault = self.stopped = False
        self.sent = np.zeros(2)
        self.forget()

    def forget(self):
        """What the commander is to have forgotten."""
        self.frame_heard = self.joints_heard = self.last = None
        self.starts = []

    def call(self):
        """Every call that takes the time notices when it went backwards."""
        if self.now < self.last_call:
            self.forget()
            self.sent = np.zeros(2)
        self.last_call = self.now

    @rule(steps=st.integers(1, 4), early=st.integers(-5 * MS, 5 * MS))
    def pass_time(self, steps, early):
        self.now += steps * PERIOD + early
        self.tick()

    @rule(steps=st.integers(2, 12), action=st.tuples(tame, tame))
    def run_smoothly(self, steps, action, withheld=""):
        for _ in range(steps):
            if withheld != "joints":
                self.joints(np.clip(action, *ENDS))
            if withheld != "frames":
                self.frame(0)
            if withheld != "plans":
                self.plan(0, [action] * 10)
            self.tick()
            self.now += PERIOD

    @rule(
        action=st.one_of(st.tuples(calm, calm), st.tuples(tame, tame)),
        trouble=st.sampled_from(
            [
                "frames",
                "joints",
                "plans",
                "back",
                "ahead",
                "future frame",
                "stop",
                "gone",
                "hold",
                "fault",
                "stands",
            ]
        ),
        steps=st.sampled_from([1, 4, 8, 14]),
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
        elif trouble == "gone":
            self.live("planner_node", False)
        elif trouble in ("hold", "fault"):
            self.say("encoder_node", Health[trouble.upper()])
        elif trouble == "stands":
            self.the_clock_stands()
        self.now = max(1, self.now)
        if trouble in ("frames", "joints", "plans"):
            self.run_smoothly(14, action, withheld=trouble)  # longer than every timeout
        elif supplied:
            self.run_smoothly(steps, action)
        else:
            for _ in range(steps):
                self.tick()
                self.now += PERIOD

    @rule(leap=st.one_of(st.integers(-(10**7), -1), st.integers(-(10**12), -1), st.integers(0, 10**12)))
    def set_clock(self, leap):
        self.now = max(1, self.now + leap)

    @rule(positions=st.tuples(finite, finite))
    def joints(self, positions):
        self.call()
        self.positions = np.array(positions) if self.ended else None
        self.commander.joints(self.now, self.positions)
        self.joints_heard = self.now

    @rule(stamp=st.one_of(st.integers(-PERIOD, PERIOD), st.integers(-(2**62), 2**62)))
    def frame(self, stamp):
        self.call()
        self.commander.frame(self.now, self.now + stamp)
        self.frame_heard = self.now

    @rule(delay=delays, actions=st.lists(st.tuples(numbers, numbers), max_size=12))
    def plan(self, delay, actions):
        problem = self.commander.plan(NAMES, self.now + delay, actions)
        assert bool(problem) == (not actions or not np.isfinite(actions).all())
        if not problem and not self.fault:
            self.starts.append(self.now + delay)

    @rule(
        names=st.lists(st.text(max_size=3), max_size=3),
        actions=st.sampled_from([[], [[]], [[1.0]], np.zeros((2, 3)), np.zeros((1, 2, 2)), 1.0]),
    )
    def plan_nonsense(self, names, actions):
        assert self.commander.plan(tuple(names), self.now, actions)
        assert self.commander.plan(NAMES, self.now, actions)

    @rule(name=sources, health=st.sampled_from(Health))
    def say(self, name, health):
        self.commander.sources.say(name, health, "so it says")
        self.health[name] = health

    @rule(name=sources, alive=st.booleans())
    def live(self, name, alive):
        self.commander.sources.set_alive(name, alive)
        self.alive[name] = alive
        if alive:
            self.seen.add(name)
        else:
            self.health.pop(name, None)

    @rule()
    def everybody_is_well_again(self):
        for name in ("encoder_node", "planner_node", "monitor_node"):
            self.live(name, True)
            self.say(name, Health.FINE)

    @rule()
    def emergency_stop(self):
        self.commander.emergency_stop()
        self.fault = self.stopped = True
        self.starts = []

    @rule()
    def reset(self):
        self.commander.reset()
        self.fault = self.stopped = False
        self.health = {name: h for name, h in self.health.items() if h is not Health.FAULT}
        self.forget()
        self.sent = np.zeros(2)

    @rule()
    def the_clock_stands(self):
        """The robot is stopped from outside, as no control step comes to do it."""
        self.commander.forget()
        self.commander.settle()
        self.moving, self.sent = False, np.zeros(2)
        self.forget()

    @rule()
    def tick(self):
        self.call()
        decision = self.commander.tick(self.now)
        action = decision.action
        self.check_state(decision)
        if action is not None:
            assert action.shape == (2,)
            assert np.isfinite(action).all()
            assert (action >= LOW).all()
            assert (action <= HIGH).all()
        if decision.moving:
            self.check_motion(action)
        else:
            assert action is None or not action.any()
            if self.moving:
                assert action is not None, "the first command after motion is standing still"
        self.moving = decision.moving
        self.sent = np.zeros(2) if action is None else action
        self.fault = decision.state is State.FAULT
        self.stopped = self.stopped and self.fault

    def check_state(self, decision):
        assert decision.changed == ((decision.state, decision.reason) != self.last)
        self.last = decision.state, decision.reason
        assert decision.reason
        if self.fault or self.stopped or Health.FAULT in self.health.values():
            assert decision.state is State.FAULT
        if decision.state in (State.FAULT, State.HOLD) and self.moving:
            assert decision.action is not None

    def check_motion(self, action):
        assert self.frame_heard is not None
        assert 0 <= self.now - self.frame_heard <= self.rules.image_timeout * 1e9 + PERIOD
        assert self.joints_heard is not None
        assert 0 <= self.now - self.joints_heard <= self.rules.joint_timeout * 1e9
        assert any(start - PERIOD <= self.now < start + MAX_AGE for start in self.starts)
        assert max([Health.FINE, *self.health.values()]) < Health.HOLD
        assert all(self.alive[name] for name in self.seen)
        at_the_end = False
        if self.ended:
            reached = self.positions + action * PERIOD / 1e9
            for i in range(2):
                low, high, slack = ENDS[0][i], ENDS[1][i], 1e-9
                assert action[i] <= 0 or reached[i] <= high + slack
                assert action[i] >= 0 or reached[i] >= low - slack
                room = np.minimum(high - self.positions[i], self.positions[i] - low)
                at_the_end = at_the_end or room < 0.4 * PERIOD / 1e9
        if self.stepped and not at_the_end:
            assert (np.abs(action - self.sent) <= MAX_STEP + 1e-12).all()


TestCommander = CommanderMachine.TestCase

import numpy as np
import pytest

from world_model_ros.safety.action_buffer import ActionBuffer
from world_model_ros.safety.commander import Commander, Rules
from world_model_ros.safety.health import Health
from world_model_ros.safety.joints import JointCollector
from world_model_ros.safety.limits import Limits
from world_model_ros.safety.watchdogs import ClockWatch

MS = 1_000_000
PERIOD = 50 * MS
NAMES = ("linear_x", "linear_y")


class Bench:
    """A commander whose inputs come in time, unless a test withholds them; the clocks are ours.

    Where ``real``, the node's clock is not a simulated one. ``positions`` are those of the joints, where
    the limits have any.
    """

    names = NAMES
    period = PERIOD

    def __init__(self, limits=None, rules=None, max_age=500 * MS, real=False, joints=None):
        limits = limits or Limits(NAMES, (-0.4, -0.4), (0.4, 0.4))
        if joints is None:
            joints = JointCollector(NAMES if limits.positions else ())
        clock = ClockWatch(2 * PERIOD if real else None)
        self.commander = Commander(limits, ActionBuffer(PERIOD, max_age), rules or Rules(), joints, clock)
        self.now = 1000 * MS
        self.steady = 77_000 * MS
        self.joint_names = joints.names or ("wheel",)
        self.positions = np.zeros(len(self.joint_names))
        self.nodes = {}  # name -> (health, reason, values), repeated as heartbeats
        self.decisions = []

    def plan(self, value=0.1, steps=10, start=None):
        """Hand over a plan with the same action in each of its steps."""
        actions = np.tile(np.asarray(value, float), (steps, 1))
        if actions.shape[1] == 1:
            actions = np.repeat(actions, 2, axis=1)
        return self.commander.plan(self.now, self.names, self.now if start is None else start, actions)

    def joints(self):
        """Report the joints now."""
        return self.commander.joints(self.now, self.steady, self.joint_names, self.positions)

    def report(self, name, health=Health.FINE, reason="", **values):
        """Report a node's health now, and with every tick from now on."""
        self.nodes[name] = health, reason, values
        self.commander.report(name, self.steady, health, reason, values=values)

    def tick(self, joints=True, frame=True, plan=None):
        """Let one control step pass: inputs first, then the decision, which is returned."""
        for name, (health, reason, values) in self.nodes.items():
            self.commander.report(name, self.steady, health, reason, values=values)
        if joints:
            self.joints()
        if frame:
            self.commander.frame(self.now, self.steady, self.now)
        if plan is not None:
            self.plan(plan)
        decision = self.commander.tick(self.now, self.steady)
        self.decisions.append(decision)
        self.now += PERIOD
        self.steady += PERIOD
        return decision

    def ticks(self, count, **inputs):
        """Let several control steps pass; return their decisions."""
        return [self.tick(**inputs) for _ in range(count)]

    def run(self):
        """Come to RUNNING."""
        decision = self.ticks(4, plan=0.1)[-1]
        assert decision.moving, decision
        return self


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def make_bench():
    return Bench

import numpy as np
import pytest

from world_model_ros.evaluation.policies import PlannerPolicy, RepeatPolicy
from world_model_ros.evaluation.problems import Problem
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.planning.planner import Plan
from world_model_ros.planning.timeline import Timeline
from world_model_ros.safety.action_buffer import ActionBuffer

PERIOD, BLOCK = 50_000_000, 5  # ns, control steps
PLAN_TIMEOUT = 500_000_000  # of planner_node and command_node, in config/sim.yaml
SMALL = PlannerConfig(samples=8, elites=2, iterations=1, horizon=5)


def problem(last_action=None, seed=3):
    return Problem(0, seed, (0.5, 0.0), (0.5, 0.1), last_action)


def test_repeat_plays_the_explorers_last_action_for_ever():
    policy = RepeatPolicy((-0.4, -0.4), (0.4, 0.4), BLOCK)
    policy.start(None, problem((0.1, -0.3)))
    for _ in range(3):
        np.testing.assert_array_equal(policy.act(None), np.tile((0.1, -0.3), (BLOCK, 1)))


def test_repeat_draws_one_action_for_a_problem_without_a_past():
    policy = RepeatPolicy((-0.4, -0.1), (0.4, 0.1), BLOCK)
    drawn = []
    for seed in (1, 1, 2):
        policy.start(None, problem(seed=seed))
        blocks = np.concatenate([policy.act(None), policy.act(None)])
        assert np.all(blocks == blocks[0])
        assert np.all(np.abs(blocks[0]) <= (0.4, 0.1))
        drawn.append(blocks[0])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


class Nodes:
    """What planner_node and command_node do with stamped latents, on a clock that never lags."""

    def __init__(self, planner):
        self.planner = planner
        self.timeline = Timeline(PERIOD, BLOCK, 2, ActionBuffer(PERIOD, PLAN_TIMEOUT))
        self.command = ActionBuffer(PERIOD, PLAN_TIMEOUT)
        self.planned = None  # start of the last step planned for
        self.now = 0

    def act(self, latent):
        step = None if latent is None else self.timeline.add_latent(self.now, latent)
        if step is not None:
            follows = self.planned == step.start - BLOCK * PERIOD
            self.planned = step.start
            plan = self.planner.plan(step.latent, step.executed if follows else None, step.running)
            self.timeline.buffer.put(step.due, plan.actions)
            self.command.put(step.due, plan.actions)
        block = np.zeros((BLOCK, 2))
        for i in range(BLOCK):
            action = self.command.action_at(self.now)
            block[i] = 0.0 if action is None else action
            self.timeline.add_executed(self.now, block[i])
            self.now += PERIOD
        return block


class Dice:
    """A planner whose plans are as long as it happens; keeps what it is asked."""

    def __init__(self, shortest=1):
        self.rng, self.shortest = np.random.default_rng(11), shortest
        self.asked, self.lengths = [], []

    def plan(self, latent, executed, running):
        self.asked.append((latent, executed, running))
        self.lengths.append(int(self.rng.integers(self.shortest, 6)))
        actions = self.rng.uniform(-0.4, 0.4, (self.lengths[-1] * BLOCK, 2))
        return Plan(actions, 1.0, 1.0, self.lengths[-1], 1.0, 1, 64)


@pytest.mark.parametrize("lost", [0.0, 0.1, 0.6])
def test_the_pipelined_policy_does_what_the_nodes_do_with_lost_frames(checkpoint, lost):
    model, spec = load_checkpoint(checkpoint)
    policy = PlannerPolicy(model, spec, SMALL)
    rng = np.random.default_rng(7)
    pictures = rng.integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    dropped = rng.random(len(pictures)) < lost
    dropped[0] = False
    policy.start(pictures[0], problem())
    policy.planner = Dice()
    nodes = Nodes(Dice())
    stood = 0
    for picture, gone in zip(pictures, dropped, strict=True):
        expected = nodes.act(None if gone else policy.encode(picture))
        np.testing.assert_array_equal(policy.act(None if gone else picture), expected)
        stood += not expected.any()
    assert len(policy.planner.asked) == len(nodes.planner.asked) == (~dropped).sum()
    for ours, theirs in zip(policy.planner.asked, nodes.planner.asked, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, other)
    assert (stood > 1) == (lost > 0)  # the first block always stands still


class Known:
    """A camera whose latency is known, in control steps."""

    def __init__(self, steps):
        self.steps = steps

    def reset(self):
        pass

    def step(self, latent, blocks):
        assert blocks is None or np.shape(blocks) == (BLOCK, BLOCK, 2)
        return self.steps


@pytest.mark.parametrize("late", range(1, BLOCK))
def test_the_pipelined_policy_does_what_the_nodes_do_with_late_frames(checkpoint, late):
    model, spec = load_checkpoint(checkpoint)
    policy = PlannerPolicy(model, spec, SMALL)
    policy.latency, policy.estimates_latency = Known(late), True
    pictures = np.random.default_rng(8).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    policy.start(pictures[0], problem())
    policy.planner, nodes = Dice(), Nodes(Dice())
    nodes.timeline.take_latency(late * PERIOD)
    for picture in pictures:
        np.testing.assert_array_equal(policy.act(picture), nodes.act(policy.encode(picture)))
    for ours, theirs in zip(policy.planner.asked, nodes.planner.asked, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_a_policy_that_waits_plans_from_where_the_robot_is_by_now(checkpoint):
    model, spec = load_checkpoint(checkpoint)
    policy = PlannerPolicy(model, spec, SMALL, pipelined=False)
    picture = np.zeros((64, 64, 3), np.uint8)
    policy.latency, policy.estimates_latency = Known(2), True
    policy.start(picture, problem())
    policy.planner = Dice()
    sent = [policy.act(picture) for _ in range(3)]
    (_, first, _), (_, second, _), (_, third, running) = policy.planner.asked
    assert first is None
    np.testing.assert_array_equal(second, np.concatenate([np.zeros((2, 2)), sent[0][:3]]))
    np.testing.assert_array_equal(third, np.concatenate([sent[0][3:], sent[1][:3]]))
    np.testing.assert_allclose(running.sum(0), sent[1][3:].sum(0))  # no slower, no farther
    policy.did(np.ones((BLOCK, 2)))
    policy.act(picture)
    np.testing.assert_array_equal(policy.planner.asked[-1][1], np.concatenate([sent[1][3:], np.ones((3, 2))]))


def test_a_long_plan_is_played_no_longer_than_the_nodes_trust_it(checkpoint):
    model, spec = load_checkpoint(checkpoint)
    policy = PlannerPolicy(model, spec, SMALL)
    policy.start(np.zeros((64, 64, 3), np.uint8), problem())
    policy.planner, nodes = Dice(shortest=5), Nodes(Dice(shortest=5))
    picture = np.zeros((64, 64, 3), np.uint8)
    moving = []
    for shown in (picture, None, None, None, None):
        block = policy.act(shown)
        np.testing.assert_array_equal(block, nodes.act(None if shown is None else policy.encode(shown)))
        moving.append(bool(block.any()))
    assert policy.planner.lengths == [5]
    assert moving == [False, True, True, False, False]

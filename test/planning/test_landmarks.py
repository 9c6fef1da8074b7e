"""Landmarks: the shortest ways over them, and a planner that aims at one after another."""

import math

import numpy as np
import pytest
import torch

from test.planning.test_planner import SPEC, STILL, PointMass, latent
from world_model_ros.model.heads import Landmarks
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.planning.landmarks import NEAR, PATIENCE, REACH, Waypoints, shortest_ways
from world_model_ros.planning.planner import RecedingHorizonPlanner

INF = math.inf
STEP = 0.1  # m that a point mass moves in a model step, along an axis
# Places of landmarks: up, across, down, round a wall between the start (0, 0) and the goal; 0.1 m apart.
TENTHS = [k / 10 for k in range(1, 8)]
PLACES = [*((0.0, y) for y in TENTHS), *((x / 10, 0.8) for x in range(11)), *((1.0, 0.8 - y) for y in TENTHS)]
EDGES = [(a, b) for a in range(len(PLACES)) for b in range(a + 1, min(a + 4, len(PLACES)))]
GOAL = (1.0, 0.0)


def steps_apart(starts, goals):
    """Return the model steps of the straight way, and far more through the wall at x = 0.5 below y = 0.5."""
    starts, goals = torch.broadcast_tensors(starts, goals)
    straight = (starts - goals)[..., :2].norm(dim=-1) / STEP
    through = (
        ((starts[..., 0] < 0.5) != (goals[..., 0] < 0.5)) & (starts[..., 1] < 0.5) & (goals[..., 1] < 0.5)
    )
    return torch.where(through, 30.0, straight)


def made(places=PLACES, edges=EDGES):
    landmarks = Landmarks(len(places), SPEC.model.latent_dim)
    for row, place in enumerate(places):
        landmarks.latents[row] = torch.from_numpy(latent(*place))
    for a, b in edges:
        landmarks.edges[a, b] = steps_apart(landmarks.latents[a], landmarks.latents[b])
    return landmarks


def world(landmarks=None):
    mass = PointMass()
    mass.temporal, mass.landmarks = steps_apart, landmarks
    return mass


def of(place):
    return torch.from_numpy(latent(*place))


def test_the_shortest_way_over_a_graph_made_by_hand():
    #  0 -1- 1 -1- 2 -1- goal, 0 -5- 2, 3 -2- 0 one way only, 4 alone
    edges = torch.zeros(5, 5)
    for a, b, length in ((0, 1, 1.0), (1, 2, 1.0), (0, 2, 5.0), (3, 0, 2.0)):
        edges[a, b] = length
    last = torch.tensor([INF, INF, 1.0, INF, INF])
    assert shortest_ways(edges, last).tolist() == [3.0, 2.0, 1.0, 5.0, INF]
    edges[0, 2] = 1.5  # now shorter than over 1
    assert shortest_ways(edges, last).tolist() == [2.5, 2.0, 1.0, 4.5, INF]
    assert shortest_ways(edges, torch.tensor([0.5, INF, 1.0, INF, INF])).tolist()[0] == 0.5
    assert shortest_ways(edges, torch.full((5,), INF)).tolist() == [INF] * 5


def waypoints(landmarks):
    points = Waypoints(landmarks, steps_apart)
    points.set_goal(of(GOAL))
    return points


def test_what_is_aimed_at_is_the_landmark_within_reach_on_the_shortest_way_and_near_the_goal_the_goal():
    assert waypoints(made()).reach == pytest.approx(3 * REACH)  # 0.42 m
    for place, landmark in (((0.0, 0.0), (0.0, 0.4)), ((0.0, 0.5), (0.2, 0.8)), ((0.55, 0.8), (0.9, 0.8))):
        assert torch.equal(waypoints(made()).target(of(place)), of(landmark)), place
    assert torch.equal(waypoints(made()).target(of((0.95, 0.4))), of(GOAL))


def test_a_landmark_stays_the_target_until_it_is_near_though_another_one_seems_better_meanwhile():
    points = waypoints(made(places=[*PLACES, (0.0, 0.35)], edges=[*EDGES, (len(PLACES), 4)]))
    near = NEAR * points.reach * STEP
    assert torch.equal(points.target(of((0.0, 0.0))), of((0.0, 0.4)))
    points.ways = torch.where(torch.arange(len(PLACES) + 1) == len(PLACES), 0.0, points.ways)
    assert torch.equal(points.target(of((0.0, 0.0))), of((0.0, 0.4)))
    assert torch.equal(points.target(of((0.0, 0.4 - near - 0.01))), of((0.0, 0.4)))
    assert torch.equal(points.target(of((0.0, 0.4 - near + 0.01))), of((0.0, 0.5)))
    points.set_goal(of(GOAL))
    assert points.aimed is None


def test_a_landmark_that_comes_no_nearer_is_given_up_until_the_next_goal_unless_the_robot_stands():
    points, here = waypoints(made()), of((0.0, 0.0))
    targets = [points.target(here) for _ in range(PATIENCE + 1)]
    assert all(torch.equal(target, of((0.0, 0.4))) for target in targets)
    assert not torch.equal(points.target(here), of((0.0, 0.4)))
    points.set_goal(of(GOAL))
    for _ in range(3 * PATIENCE):
        assert torch.equal(points.target(here, moved=False), of((0.0, 0.4)))
    for k in range(3 * PATIENCE):  # nearer each time
        assert torch.equal(points.target(of((0.0, 0.001 * k))), of((0.0, 0.4)))


def test_the_robot_is_never_sent_to_where_it_is():
    for place in PLACES:
        target = waypoints(made()).target(of(place))
        assert steps_apart(of(place), target) > 1.0 or torch.equal(target, of(GOAL))


@pytest.mark.parametrize(
    "landmarks",
    [made(edges=[]), made(places=[(9.0, 9.0), (9.0, 9.1)], edges=[(0, 1)]), made(edges=EDGES[:20])],
    ids=["no edges", "out of reach", "no way to the goal"],
)
def test_where_no_landmark_within_reach_has_a_way_the_goal_is_aimed_at(landmarks):
    assert torch.equal(waypoints(landmarks).target(of((0.0, 0.0))), of(GOAL))


def drive(planner, blocks, goal=GOAL):
    """Close the loop on the exact world, whose wall stops the point; return places, plans and targets."""
    position, running, executed = np.zeros(2), STILL, None
    places, plans, targets = [], [], []
    planner.set_goal(latent(*goal))
    for _ in range(blocks):
        plans.append(planner.plan(latent(*position), executed, running))
        targets.append(planner._target.clone())
        executed = running
        end = position + 0.05 * executed.sum(0)
        if min(position[1], end[1]) > 0.5 or (position[0] < 0.5) == (end[0] < 0.5):
            position = end
        places.append(position)
        running = plans[-1].actions[:5]
    return np.array(places), plans, torch.stack(targets)


def same(plans, others):
    return all(
        np.array_equal(a.actions, b.actions)
        and np.array_equal(a.costs, b.costs)
        and (a.distance, a.cost_now, a.horizon) == (b.distance, b.cost_now, b.horizon)
        for a, b in zip(plans, others, strict=True)
    )


def test_the_planner_goes_round_the_wall_over_the_landmarks_and_does_not_without_them():
    goal = torch.from_numpy(latent(*GOAL))
    places, plans, targets = drive(RecedingHorizonPlanner(world(made()), SPEC), 40)
    aimed = [int(torch.cdist(target[None], made().latents).argmin()) for target in targets[:-1]]
    assert np.hypot(*(places[-1] - GOAL)) < 0.05
    assert torch.equal(targets[-1], goal)
    first = [torch.equal(target, goal) for target in targets].index(True)
    assert aimed[0] == 3
    assert len(set(aimed[:first])) > 3
    assert aimed[:first] == sorted(aimed[:first])
    straight, _, _ = drive(RecedingHorizonPlanner(world(), SPEC), 40)
    assert straight[:, 0].max() < 0.5


def test_the_distances_that_are_told_are_those_to_the_goal():
    planner = RecedingHorizonPlanner(world(made()), SPEC)
    _, plans, _ = drive(planner, 1)
    assert plans[0].distance == pytest.approx(1.0)
    assert plans[0].cost_now == pytest.approx(float(planner.metric(of((0.0, 0.0)), of(GOAL))))
    assert plans[0].costs[-1] == pytest.approx(float(planner.metric(of((0.0, 0.4)), of(GOAL))), abs=1.0)
    assert len(plans[0].costs) == plans[0].horizon


def test_a_landmark_is_no_goal_and_the_goal_is_reached_by_its_own_distance():
    spec = SPEC.__class__(**{**vars(SPEC), "thresholds": SPEC.thresholds.__class__(goal_reached=0.01)})
    planner = RecedingHorizonPlanner(world(made()), spec)
    _, plans, targets = drive(planner, 45)
    reached = [plan.reached for plan in plans]
    assert reached[-1]
    assert all(torch.equal(targets[k], of(GOAL)) for k, there in enumerate(reached) if there)


@pytest.mark.parametrize("options", [{}, {"objective": "squared"}])
def test_switched_off_or_missing_the_plans_are_the_same(options):
    without = drive(RecedingHorizonPlanner(world(), SPEC, PlannerConfig(**options)), 12)[1]
    off = PlannerConfig(**options, landmarks=0)
    assert same(drive(RecedingHorizonPlanner(world(made()), SPEC, off), 12)[1], without)
    on = PlannerConfig(**options)
    assert not same(drive(RecedingHorizonPlanner(world(made()), SPEC, on), 12)[1], without)


def test_near_the_goal_landmarks_change_nothing():
    near = (0.2, 0.3)
    without = drive(RecedingHorizonPlanner(world(), SPEC), 12, near)[1]
    assert same(drive(RecedingHorizonPlanner(world(made()), SPEC), 12, near)[1], without)


def test_another_goal_and_a_warm_up_take_the_ways_along():
    planner = RecedingHorizonPlanner(world(made()), SPEC)
    drive(planner, 2)
    ways = planner.waypoints.ways.clone()
    planner.warm_up()
    assert torch.equal(planner.waypoints.ways, ways)
    assert torch.equal(planner._target, of(GOAL))
    planner.set_goal(latent(0.3, 0.9))
    assert not torch.equal(planner.waypoints.ways, ways)
    planner.set_goal(None)
    assert not planner.has_goal

import numpy as np
import pytest

from world_model_ros.sim.arm import SPEED
from world_model_ros.sim.scene import STICK_RADIUS, WORKSPACE_CENTRE
from world_model_ros.sim.tasks import make_world
from world_model_ros.sim.tasks.detour import (
    OPENING,
    REACHED,
    WALLS,
    WALLS_Y,
    WORKSPACE_HALF,
    DetourExplorer,
    depth,
    lane,
    slide,
)

SLACK = 1e-3  # that the arm may lag behind its command, m


@pytest.fixture(scope="module")
def world():
    world = make_world("detour", image_size=64)
    yield world
    world.close()


def shove(world, start, action, steps):
    """Command one action from a place; return the places after each control step."""
    world.reset(state=start)
    places = []
    for _ in range(steps):
        world.step(action)
        places.append(world.state())
    return np.array(places)


def test_the_straight_way_of_a_far_problem_leads_through_a_wall(world):
    directions = set()
    for seed in range(40):
        start, goal, _ = world.problem("far", seed)
        assert {lane(start), lane(goal)} == {0, len(WALLS_Y)}
        directions.add(lane(start))
        way = start + np.linspace(0, 1, 2000)[:, None] * (goal - start)
        assert depth(way).max() > 0
        assert np.all(depth(np.array([start, goal])) < 0)
    assert directions == {0, len(WALLS_Y)}


def round_the_ends(start, goal):
    """Return places on a way from start to goal: through the opening of each wall in between."""
    back, front = WORKSPACE_CENTRE[0] - WORKSPACE_HALF, WORKSPACE_CENTRE[0] + WORKSPACE_HALF
    openings = [front - OPENING / 2 if i % 2 == 0 else back + OPENING / 2 for i in range(len(WALLS_Y))]
    low, high = sorted((lane(start), lane(goal)))
    way = [np.array([openings[i], WALLS_Y[i] + s * 0.05]) for i in range(low, high) for s in (-1, 0, 1)]
    return [*(way if lane(start) == low else way[::-1]), np.asarray(goal)]


def test_every_far_goal_can_be_reached_in_time_by_one_who_knows_the_way(world):
    budget = world.protocols["far"].budget
    for seed in range(8):
        start, goal, _ = world.problem("far", seed)
        world.reset(state=start)
        way, steps = round_the_ends(start, goal), 0
        while not world.success(goal):
            if np.hypot(*(way[0] - world.state())) < 0.01 and len(way) > 1:
                way.pop(0)
            world.step((way[0] - world.state()) / world.period)
            steps += 1
            assert steps < budget / 2


@pytest.mark.parametrize("speed", [0.05, SPEED])
@pytest.mark.parametrize("number", range(len(WALLS)))
def test_a_wall_stops_the_stick_from_both_sides(world, number, speed):
    (low, high), steps = WALLS[number], round(0.12 / speed / 0.05)
    for sign, face in ((1, low[1] - STICK_RADIUS), (-1, high[1] + STICK_RADIUS)):
        start = np.array([WORKSPACE_CENTRE[0], WALLS_Y[number] - sign * 0.05])
        places = shove(world, start, (0.0, sign * speed), steps)
        assert abs(places[-1, 1] - face) < SLACK
        assert lane(places[-1]) == lane(start)


def test_a_stick_that_is_pressed_slantingly_slides_to_the_end_of_the_wall_and_past_it(world):
    start = np.array([0.45, -0.15])
    places = shove(world, start, (0.3, 0.3), 40)
    against = (np.abs(places[:, 1] - (WALLS[0, 0, 1] - STICK_RADIUS)) < SLACK).sum()
    assert against > 4
    assert places[-1, 1] > WALLS_Y[0] + 0.03
    assert depth(places).max() < SLACK


def test_no_action_brings_the_stick_into_a_wall_or_out_of_the_workspace(world):
    rng = np.random.default_rng(0)
    world.reset(3)
    for _ in range(60):
        action = rng.choice((-SPEED, 0.0, SPEED, rng.uniform(-SPEED, SPEED)), 2)
        for _ in range(5):
            world.step(action)
            assert depth(world.state()) < SLACK
            assert np.all(np.abs(world.state() - WORKSPACE_CENTRE) < WORKSPACE_HALF + SLACK)


def test_slide_goes_straight_where_nothing_is_in_the_way_and_clips_each_axis_by_itself():
    np.testing.assert_allclose(slide((0.5, 0.05), (0.01, -0.005)), (0.51, 0.045), atol=1e-12)
    face = WALLS[1, 1, 1] + STICK_RADIUS
    np.testing.assert_allclose(slide((0.5, face + 0.001), (0.01, -0.02)), (0.51, face), atol=1e-12)
    np.testing.assert_allclose(slide((0.5, face), (0.0, 0.0)), (0.5, face), atol=1e-12)  # stays where it is


def test_a_state_in_a_wall_is_refused_and_one_that_slid_along_it_is_not(world):
    with pytest.raises(ValueError, match="is in a wall"):
        world.reset(state=(WORKSPACE_CENTRE[0], WALLS_Y[1]))
    state = shove(world, (0.45, -0.15), (0.3, 0.4), 8)[-1]
    world.reset(state=state)
    np.testing.assert_allclose(world.state(), state, atol=SLACK)


def test_reached_means_two_centimetres(world):
    world.reset(state=(0.5, 0.05))
    assert world.success((0.5 + REACHED - 0.001, 0.05))
    assert not world.success((0.5 + REACHED + 0.001, 0.05))
    assert 2 * STICK_RADIUS + (WALLS[0, 1, 1] - WALLS[0, 0, 1]) > REACHED  # never across a wall


def test_the_picture_shows_stick_and_walls(world):
    picture = world.goal_image((0.6, 0.05)).astype(int)
    red, blue = picture[..., 0], picture[..., 2]
    assert ((red > 120) & (picture[..., 1] < 100) & (blue < 60)).sum() > 10
    assert ((blue > 90) & (red < 70)).sum() > 80


def test_the_explorer_goes_into_every_lane_and_through_every_opening(world):
    cells, passed = set(), set()
    for seed in range(40):
        world.reset(seed)
        explorer, before = world.explorer(seed), None
        for _ in range(100):
            action = explorer.action(world.state())
            assert np.abs(action).max() <= SPEED
            world.step(action)
            now = lane(world.state())
            ninth = int((world.state()[0] - WORKSPACE_CENTRE[0] + WORKSPACE_HALF) / (2 * WORKSPACE_HALF) * 3)
            cells.add((now, min(max(ninth, 0), 2)))
            if before is not None and now != before:
                passed.add((before, now))
            before = now
    assert cells == {(k, third) for k in range(len(WALLS_Y) + 1) for third in range(3)}
    assert passed == {(k, k + s) for k in range(4) for s in (-1, 1) if 0 <= k + s <= 3}


def test_the_explorer_follows_its_seed():
    def actions(seed):
        explorer = DetourExplorer(seed)
        return np.array([explorer.action(np.array([0.5, 0.05])) for _ in range(50)])

    np.testing.assert_array_equal(actions(1), actions(1))
    assert not np.array_equal(actions(1), actions(2))

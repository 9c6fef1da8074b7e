import numpy as np
import pytest

from world_model_ros.evaluation.violations import Episode, replay, stage_violation
from world_model_ros.sim.lockstep import missed_because
from world_model_ros.sim.tasks import make_world
from world_model_ros.sim.tasks.glass import BOARD, HEIGHT, edge_distance, standing, stands


@pytest.fixture(scope="module")
def world():
    world = make_world("glass", image_size=64)
    yield world
    world.close()


def shove(world, start, action, steps):
    world.reset(state=start)
    for _ in range(steps):
        world.step(action)
    return world.state()


def side_push(speed):
    """The stick pushes the glass outwards over the side edge."""
    return standing(np.array([0.45, -0.08]), np.array([0.45, -0.13])), (0.0, -speed)


@pytest.mark.parametrize("speed", [0.1, 0.25, 0.4])
def test_a_push_on_the_board_slides_the_glass_and_does_not_tip_it(world, speed):
    start = standing(np.array([0.45, -0.14]), np.array([0.45, -0.09]))
    state = shove(world, start, (0.0, speed), round(0.2 / speed / world.period))
    for _ in range(10):  # it slides on, and comes to rest
        world.step((0.0, 0.0))
    assert state[3] > 0.05
    assert stands(world.state())
    np.testing.assert_allclose(world.state()[4], BOARD + HEIGHT / 2, atol=2e-3)


@pytest.mark.parametrize("speed", [0.15, 0.4])
def test_over_an_edge_the_glass_falls_and_stays_down(world, speed):
    start, action = side_push(speed)
    shove(world, start, action, 60)
    for _ in range(40):
        world.step((0.0, 0.3))
    state = world.state()
    assert state[4] < HEIGHT / 2 + 0.01
    assert not stands(state)
    assert not world.criteria(start)["standing"]
    assert missed_because(world, start) == "fallen"
    assert world.distance(start) > BOARD / 2
    resting = world.state()
    for _ in range(10):
        world.step((0.0, 0.0))
    np.testing.assert_allclose(world.state()[2:5], resting[2:5], atol=3e-3)


def test_the_straight_way_of_a_gap_problem_leads_over_the_gap(world):
    for seed in range(20):
        start, goal, _ = world.problem("gap", seed)
        way = np.linspace(start[2:4], goal[2:4], 50)
        assert edge_distance(way).min() < -0.01
        assert edge_distance(way[[0, -1]]).min() > 0.02
        bent = np.array([[0.45, start[3]], [0.45, goal[3]]])
        assert edge_distance(bent).min() > 0.03


def test_a_goal_near_an_edge_has_a_free_way(world):
    for seed in range(20):
        start, goal, _ = world.problem("edge", seed)
        assert 0.02 < edge_distance(goal[2:4]) < 0.035
        assert edge_distance(np.linspace(start[2:4], goal[2:4], 50)).min() > 0.02


@pytest.mark.parametrize(
    ("place", "distance"),
    [((0.45, 0.0), 0.05), ((0.55, 0.0), -0.05), ((0.55, 0.10), 0.05), ((0.62, 0.10), -0.02)]
    + [((0.40, 0.20), -0.02), ((0.47, 0.09), 0.05)],
)
def test_the_distance_to_the_edge(place, distance):
    assert edge_distance(np.array(place)) == pytest.approx(distance)


def test_a_fallen_glass_is_placed_as_it_lay(world):
    start, action = side_push(0.3)
    state = shove(world, start, action, 40)
    assert not stands(state)
    picture = world.render().astype(int)
    again = world.goal_image(state)
    assert np.abs(picture - again).mean() < 0.5
    np.testing.assert_allclose(world.twin().state(), state, atol=1e-4)


@pytest.mark.parametrize(
    "state",
    [
        standing(np.array([0.5, 0.1]), np.array([0.56, 0.0])),  # stands in the gap
        standing(np.array([0.5, 0.1]), np.array([0.45, 0.0])) * [1, 1, 1, 1, 1, 1, 1, 2],  # is too long
        np.append(standing(np.array([0.9, 0.1]), np.array([0.45, 0.0]))[:-1], HEIGHT),  # the tip is outside
    ],
)
def test_impossible_states_are_refused(world, state):
    with pytest.raises(ValueError, match=r"not on the board|not as long|outside the workspace"):
        world.reset(state=state)


def test_a_person_puts_a_fallen_glass_back_before_the_next_goal(world):
    start, action = side_push(0.3)
    world.reset(state=start)
    before = world.state()
    world.tidy()
    np.testing.assert_array_equal(world.state(), before)
    shove(world, start, action, 40)
    world.tidy()
    world.step((0.0, 0.0))
    assert stands(world.state())


def test_a_person_puts_a_glass_back_that_the_tip_cannot_get_behind(world):
    behind = world.workspace()[0][0] + 0.03
    world.reset(state=standing(np.array([0.5, 0.1]), np.array([behind, -0.04])))
    world.tidy()
    world.step((0.0, 0.0))
    assert stands(world.state())
    place = world.state()[2:4]
    assert place[0] > world.workspace()[0][0] + 0.05
    assert np.hypot(*(place - world.state()[:2])) > 0.04


def fall(world):
    """Return the start and the episode of a push over the side edge."""
    start, action = side_push(0.2)
    world.reset(state=start)
    states = [world.state()]
    for _ in range(8):
        for _ in range(5):
            world.step(action)
        states.append(world.state())
    return start, Episode((0, 0), np.tile(action, (8, 5, 1)), np.array(states))


@pytest.mark.parametrize(
    ("kind", "up"), [("float", True), ("stop_in_mid_air", None), ("through_board", False), ("replaced", True)]
)
def test_violations_of_the_fall(world, monkeypatch, kind, up):
    start, episode = fall(world)
    staged = stage_violation(kind, "glass", episode, 0, np.random.default_rng(0))
    monkeypatch.setattr(world, "reset", lambda _=None, state=start, reset=world.reset: reset(state=state))
    replay(world, episode, range(staged.step + 2), staged)
    monkeypatch.undo()
    after, truth = world.state(), episode.states[staged.step + 1]
    if kind == "stop_in_mid_air":
        np.testing.assert_allclose(after[2:], episode.states[staged.step][2:], atol=1e-6)
        assert truth[4] < after[4] - 0.02
    elif kind == "replaced":
        np.testing.assert_allclose(after[2:], truth[2:], atol=5e-3)
    else:
        assert stands(after) == up
        assert stands(truth) != up
    world.reset(0)  # nothing of it is left
    for _ in range(3):
        world.step((0.0, 0.0))
    assert stands(world.state())


def test_the_explorer_drops_some_glasses_and_keeps_others(world):
    fell, moved = [], []
    for seed in range(12):
        world.reset(seed)
        explorer, states = world.explorer(seed), []
        for _ in range(80):
            states.append(world.state())
            world.step(explorer.action(states[-1]))
        fell.append(not stands(world.state()))
        moved.append(np.abs(np.diff(np.array(states)[:, 2:4], axis=0)).max(1) > 5e-4)
    assert 2 <= sum(fell) <= 10
    assert np.mean(moved) > 0.15

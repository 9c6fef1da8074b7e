import numpy as np
import pytest

from world_model_ros.errors import UserError
from world_model_ros.sim.scene import WORKSPACE_CENTRE, WORKSPACE_HIGH, WORKSPACE_LOW
from world_model_ros.sim.task import yaw_difference
from world_model_ros.sim.tasks import make_world
from world_model_ros.sim.tasks.glass import standing


@pytest.fixture(params=["reach", "push", "glass", "detour"])
def world(request):
    world = make_world(request.param, image_size=64)
    yield world
    world.close()


@pytest.fixture
def push():
    world = make_world("push", image_size=64)
    yield world
    world.close()


def play(world, seed, steps=60):
    """Every number that the world shows while its explorer acts."""
    world.reset(seed)
    explorer = world.explorer(seed)
    rows = []
    for _ in range(steps):
        world.step(explorer.action(world.state()))
        rows.append(np.concatenate([world.state(), *world.joints()]))
    return np.array(rows), world.render()


def test_equal_seeds_give_equal_bits_whatever_ran_before(world):
    first = {seed: play(world, seed) for seed in range(8)}
    for seed in (5, 0, 0, 7, 2, 6, 3, 1, 4):
        rows, picture = play(world, seed)
        np.testing.assert_array_equal(rows, first[seed][0])
        np.testing.assert_array_equal(picture, first[seed][1])
    fresh = make_world(world.task, image_size=64)
    np.testing.assert_array_equal(play(fresh, 3)[0], first[3][0])
    fresh.close()
    assert not np.array_equal(first[0][0], first[1][0])


def test_a_reset_in_the_middle_of_a_push_leaves_no_trace(push):
    start = np.array([0.50, -0.13, 0.50, 0.0, 0.0])

    def shove():
        push.reset(state=start)
        for _ in range(12):
            push.step((0.0, 0.3))
        return push.state()

    fresh = shove()
    assert fresh[3] > 0.03
    np.testing.assert_array_equal(shove(), fresh)


@pytest.mark.parametrize("call", ["goal_image", "sample_goal", "problem"])
def test_looking_ahead_leaves_the_present_as_it_is(world, call):
    goal = make_world(world.task, seed=9).state()
    calls = {
        "goal_image": lambda: world.goal_image(goal),
        "sample_goal": lambda: world.sample_goal(np.random.default_rng(0)),
        "problem": lambda: world.problem(next(iter(world.protocols)), 0),
    }

    def half_way(interrupt):
        world.reset(4)
        explorer = world.explorer(4)
        for step in range(40):
            if step == 20:
                before = world.state(), world.joints()[1]
                interrupt()
                np.testing.assert_array_equal(world.state(), before[0])
                np.testing.assert_array_equal(world.joints()[1], before[1])
            world.step(explorer.action(world.state()))
        return world.state(), world.render()

    undisturbed, disturbed = half_way(lambda: None), half_way(calls[call])
    np.testing.assert_array_equal(disturbed[0], undisturbed[0])
    np.testing.assert_array_equal(disturbed[1], undisturbed[1])


def test_a_goal_image_is_what_the_camera_sees_there(world):
    _, picture = play(world, 2, steps=70)
    for _ in range(5):
        world.step((0.0, 0.0))
    imagined = world.goal_image(world.state())
    difference = np.abs(world.render().astype(int) - imagined)
    assert difference.mean() < 0.5
    elsewhere = world.goal_image(make_world(world.task, seed=31).state())
    assert np.abs(world.render().astype(int) - elsewhere).mean() > 4


def test_the_picture_depends_on_the_place_and_not_on_the_way():
    world = make_world("reach", image_size=64)
    place = np.array([0.45, 0.06])
    pictures = []
    for way in ((0.4, 0.0), (0.0, -0.4), (-0.3, 0.3)):
        world.reset(state=place - 20 * world.period * np.array(way) * 0.3)
        for _ in range(20):
            world.step(np.array(way) * 0.3)
        for _ in range(3):
            world.step((0, 0))
        np.testing.assert_allclose(world.state(), place, atol=5e-4)
        pictures.append(world.render().astype(int))
    assert max(np.abs(p - pictures[0]).mean() for p in pictures[1:]) < 0.3


def test_actions_are_clipped_to_the_limits_and_the_workspace(world):
    centre = np.concatenate([WORKSPACE_CENTRE, [0.42, 0.1, 0.0][: len(world.state_names) - 2]])
    if world.task == "push":
        centre[2:4] = 0.41, 0.10
    if world.task == "glass":
        centre = standing(WORKSPACE_CENTRE, np.array([0.41, 0.10]))
    if world.task == "detour":
        centre = np.array([0.64, 0.15])  # beyond the end of the wall, for the way to the corner to be free
    world.reset(state=centre)
    low, high = world.workspace()
    world.step((9.0, -0.4))
    np.testing.assert_allclose(world.state()[:2] - centre[:2], (0.02, -0.02), atol=1e-3)
    for _ in range(40):
        world.step((0.4, 0.4))
        assert np.all(world.state()[:2] > low - 2e-3)
        assert np.all(world.state()[:2] < high + 2e-3)
    np.testing.assert_allclose(world.state()[:2], high, atol=1e-3)


@pytest.mark.parametrize("action", [(np.nan, 0.0), (np.inf, 0.0), (0.1,), (0.1, 0.1, 0.1)])
def test_impossible_actions_are_refused(world, action):
    with pytest.raises(ValueError, match="2 finite numbers"):
        world.step(action)


@pytest.mark.parametrize("state", [(0.5,), (np.nan, 0.0), (0.9, 0.0)])
def test_impossible_states_are_refused(state):
    world = make_world("reach", image_size=16)
    before = world.state()
    for use in (
        lambda: world.reset(state=state),
        lambda: world.goal_image(state),
        lambda: world.success(state),
    ):
        with pytest.raises(ValueError, match="state|workspace"):
            use()
    np.testing.assert_array_equal(world.state(), before)


def test_problems_are_reproducible_and_unsolved(world):
    problems = [world.problem(next(iter(world.protocols)), seed)[:2] for seed in range(12)]
    for seed, (start, goal) in enumerate(problems):
        world.reset(state=start)
        np.testing.assert_allclose(world.state()[2:], start[2:], atol=1e-9)
        assert not world.success(goal)
        world.reset(state=goal)
        assert world.success(goal)
        assert world.distance(goal) < 1e-3
        if world.task == "reach":
            assert np.hypot(*(goal - start)) > 0.08
        again = world.problem(next(iter(world.protocols)), seed)[:2]
        np.testing.assert_array_equal(again, (start, goal))
    assert len({tuple(goal) for _, goal in problems}) == len(problems)


def test_a_sampled_goal_is_not_reached_yet(world):
    rng = np.random.default_rng(1)
    for seed in range(5):
        world.reset(seed)
        assert not world.success(world.sample_goal(rng))


def test_a_push_moves_the_block_and_a_miss_does_not(push):
    push.reset(state=(0.50, -0.13, 0.50, 0.0, 0.0))
    for _ in range(8):
        push.step((0.0, 0.3))
    _, _, x, y, yaw = push.state()
    assert 0.08 < y < 0.11
    assert abs(x - 0.5) < 0.02
    assert abs(yaw) < 0.3
    push.reset(state=(0.38, -0.15, 0.50, 0.05, 1.0))
    for _ in range(20):
        push.step((0.0, 0.3))
    np.testing.assert_allclose(push.state()[2:], (0.50, 0.05, 1.0), atol=1e-6)


def test_an_off_centre_push_turns_the_block(push):
    turned = []
    for side in (0.05, -0.05):
        push.reset(state=(0.50 + side, -0.02, 0.50, 0.05, 0.0))
        for _ in range(10):
            push.step((0.0, 0.3))
        turned.append(yaw_difference(push.state()[4], 0.0))
    assert turned[0] > 0.3
    assert turned[1] < -0.3


def test_success_needs_the_angle_too(push):
    push.reset(state=(0.40, -0.15, 0.50, 0.0, np.pi - 0.05))
    assert push.success((0.6, 0.1, 0.53, 0.0, -np.pi + 0.05))
    assert not push.success((0.6, 0.1, 0.50, 0.0, np.pi - 0.05 - np.radians(21)))
    assert not push.success((0.6, 0.1, 0.545, 0.0, np.pi - 0.05))


def test_the_picture_shows_stick_and_block(push):
    picture = push.goal_image((0.5, -0.1, 0.55, 0.08, 0.5)).astype(int)
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    assert ((red > 120) & (green < 100) & (blue < 60)).sum() > 10
    assert ((blue > 100) & (red < 60)).sum() > 20
    assert ((green > 80) & (red < 60) & (blue < 100)).sum() > 20


def test_the_hand_hides_little_of_the_block(push):
    rng = np.random.default_rng(0)

    def block_pixels(tip, pose):
        picture = push.goal_image((*tip, *pose)).astype(int)
        red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
        return np.sum((red < 60) & ((blue > 100) | (green > 80)))

    for _ in range(40):
        pose = push.random_state(rng)[2:]
        angle = rng.uniform(-np.pi, np.pi)
        tip = pose[:2] + 0.08 * np.array([np.cos(angle), np.sin(angle)])
        far = (WORKSPACE_LOW[0], np.copysign(0.18, -pose[1]))
        seen = block_pixels(np.clip(tip, WORKSPACE_LOW, WORKSPACE_HIGH), pose)
        assert seen > 0.4 * block_pixels(far, pose)


def test_an_unknown_task_is_named():
    with pytest.raises(UserError, match="'fly'.*detour, glass, push, reach, or give module:Class"):
        make_world("fly")


def test_the_hand_points_down_at_the_tip(world):
    rng = np.random.default_rng(0)
    rest = world.random_state(rng)[2:]
    tips = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH, (20, 2))
    if world.task == "detour":  # no tip can be in a wall
        tips = [world.random_state(rng) for _ in tips]
    for tip in tips:
        world.reset(state=np.append(tip, rest))
        np.testing.assert_allclose(world.state()[:2], tip, atol=1e-6)
        client, scene = world._scene.client, world._scene
        height, rotation = client.getLinkState(scene.arm, 6, computeForwardKinematics=True)[4:6]
        down = np.array(client.getMatrixFromQuaternion(rotation)).reshape(3, 3)[:, 2]
        np.testing.assert_allclose(down, (0, 0, -1), atol=1e-6)
        assert abs(height[2] - 0.107 - world.stick - world.tip_height) < 1e-6
        np.testing.assert_allclose(world.tool(), [*tip, height[2] - 0.107 - world.stick], atol=1e-6)

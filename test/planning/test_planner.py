import dataclasses

import numpy as np
import pytest
import torch

from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import (
    ActionSpec,
    CheckpointSpec,
    ImageSpec,
    ModelConfig,
    Thresholds,
    find_checkpoint,
)
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.planning.objective import (
    GoalDistance,
    RiskOfVariants,
    WithOodPenalty,
    WithRiskPenalty,
    WithSquaredDistance,
    shifts,
    squared_distance,
)
from world_model_ros.planning.planner import LEFT, SAMPLE, Arrival, GoalInUse, RecedingHorizonPlanner

ACTION = ActionSpec(("x", "y"), "twist", "m/s", (0.01, 0.0), (0.2, 0.1), (-0.4, -0.4), (0.4, 0.3))
SPEC = CheckpointSpec(ModelConfig.small(10), ImageSpec(64), ACTION, 0.05, 5)
STILL = np.zeros((5, 2))
ONE, OTHER = np.full(4, 1.0, np.float32), np.full(4, 2.0, np.float32)


class PointMass:
    """A world known exactly: the first two numbers of the latent are a position in metres."""

    def __init__(self):
        self.contexts = []
        self.mean, self.std = torch.tensor(ACTION.mean), torch.tensor(ACTION.std)

    def rollout(self, latents, history_actions, candidates):
        self.contexts.append((latents.clone(), history_actions.clone()))
        steps = candidates.unflatten(-1, (5, 2)) * self.std + self.mean
        moved = (0.05 * steps.sum(3)).cumsum(2)
        out = latents[:, -1][:, None, None].repeat(1, *candidates.shape[1:3], 1)
        out[..., :2] += moved
        return out


def latent(x, y):
    values = np.zeros(SPEC.model.latent_dim, np.float32)
    values[:2] = x, y
    return values


def drive(planner, start, blocks, pipelined=True):
    """Close the loop on the exact world; return the positions at the model steps."""
    position, running, executed, path = np.array(start), STILL, None, []
    for _ in range(blocks):
        path.append(position.copy())
        plan = planner.plan(latent(*position), executed, running if pipelined else None)
        executed = running if pipelined else plan.actions[:5]
        position = position + 0.05 * executed.sum(0)
        running = plan.actions[:5]
    return np.array([*path, position])


@pytest.mark.parametrize("pipelined", [True, False])
def test_arrives_and_stays(pipelined):
    planner = RecedingHorizonPlanner(PointMass(), SPEC)
    planner.set_goal(latent(0.2, -0.15))
    path = drive(planner, (0.0, 0.0), 12, pipelined)
    distances = np.linalg.norm(path - [0.2, -0.15], axis=1)
    assert distances[7:].max() < 0.02


def test_plan_is_physical_and_within_limits():
    planner = RecedingHorizonPlanner(PointMass(), SPEC)
    planner.set_goal(latent(9, 9))
    plan = planner.plan(latent(0, 0), None, STILL)
    assert plan.actions.shape == (25, 2)
    assert (plan.actions >= ACTION.low).all()
    assert (plan.actions <= ACTION.high).all()
    assert plan.actions.mean(0)[0] > 0.2
    assert plan.distance == pytest.approx(162)
    assert plan.predicted_distance < plan.distance


def test_new_plan_starts_at_the_end_of_the_running_block():
    planner = RecedingHorizonPlanner(PointMass(), SPEC)
    planner.set_goal(latent(0.1, 0))
    running = np.tile([0.4, 0.0], (5, 1))  # moves exactly to the goal
    plan = planner.plan(latent(0, 0), None, running)
    # 25 steps of at most 0.4 m/s reach 0.5 m: a plan from the old place would leave with 0.1 m
    assert abs(0.05 * plan.actions.sum(0)[0]) < 0.03


def test_history_holds_what_was_executed_not_what_was_planned():
    model = PointMass()
    planner = RecedingHorizonPlanner(model, SPEC)
    planner.set_goal(latent(0.1, 0))
    executed = np.full((5, 2), 0.05)
    planner.plan(latent(0, 0), None, None)
    model.contexts.clear()
    planner.plan(latent(0.02, 0), executed, None)
    latents, actions = model.contexts[-1]
    assert latents.shape == (1, 2, 64)
    expected = (0.05 - np.array(ACTION.mean)) / np.array(ACTION.std)
    np.testing.assert_allclose(actions[0, 0].reshape(5, 2), np.tile(expected, (5, 1)), rtol=1e-4)


def test_history_never_exceeds_the_models():
    model = PointMass()
    planner = RecedingHorizonPlanner(model, SPEC)
    planner.set_goal(latent(0.1, 0))
    for k in range(6):
        planner.plan(latent(0, 0), STILL if k else None, STILL)
    assert max(latents.shape[1] for latents, _ in model.contexts) == SPEC.history
    assert all(a.shape[1] == z.shape[1] - 1 for z, a in model.contexts)


def test_a_gap_clears_the_history():
    model = PointMass()
    planner = RecedingHorizonPlanner(model, SPEC)
    planner.set_goal(latent(0.1, 0))
    planner.plan(latent(0, 0), None, None)
    planner.plan(latent(0, 0), STILL, None)
    model.contexts.clear()
    planner.plan(latent(0, 0), None, None)
    assert model.contexts[-1][0].shape[1] == 1


def test_same_seed_same_plan_and_warm_up_changes_nothing():
    plans = []
    for warm in (False, True):
        planner = RecedingHorizonPlanner(PointMass(), SPEC, PlannerConfig(seed=5))
        planner.set_goal(latent(0.1, 0.1))
        if warm:
            planner.warm_up()
        plans.append(planner.plan(latent(0, 0), None, STILL).actions)
    np.testing.assert_array_equal(*plans)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(3), None, None), "latent has shape"),
        ((np.full(64, np.nan), None, None), "latent is not finite"),
        ((np.zeros(64), np.zeros((4, 2)), None), "block has shape"),
        ((np.zeros(64), None, np.full((5, 2), np.inf)), "block is not finite"),
    ],
)
def test_bad_input_is_refused_and_leaves_the_planner_usable(arguments, message):
    planner = RecedingHorizonPlanner(PointMass(), SPEC)
    planner.set_goal(latent(0.1, 0))
    with pytest.raises(ValueError, match=message):
        planner.plan(*arguments)
    planner.plan(latent(0, 0), None, STILL)


def test_no_goal_no_plan():
    with pytest.raises(ValueError, match="set_goal"):
        RecedingHorizonPlanner(PointMass(), SPEC).plan(latent(0, 0), None, None)


def test_a_broken_model_yields_an_error_not_a_plan():
    class Broken(PointMass):
        def rollout(self, *arguments):
            return super().rollout(*arguments) * torch.nan

    planner = RecedingHorizonPlanner(Broken(), SPEC)
    planner.set_goal(latent(0.1, 0))
    with pytest.raises(ValueError, match="finite"):
        planner.plan(latent(0, 0), None, None)


class Proposing(PointMass):
    """The same world, with a head that answers with the way to places that random candidates do not reach."""

    def inverse(self, starts, goals, arrivals):
        self.asked = starts.clone(), goals.clone(), arrivals.clone()
        speed = (goals - starts)[:, :2] / (0.25 * arrivals[:, None])
        return ((speed - self.mean) / self.std).repeat(1, 5)[:, None].expand(-1, 5, -1)


def test_proposals_are_asked_from_where_the_plan_begins_and_judged_by_the_model():
    model = Proposing()
    planner = RecedingHorizonPlanner(
        model, SPEC, PlannerConfig(samples=16, elites=2, iterations=1, time_cost=0.0)
    )
    planner.set_goal(latent(0.3, 0.1))
    plan = planner.plan(latent(0, 0), None, np.tile([0.4, 0.0], (5, 1)))
    starts, goals, arrivals = model.asked
    np.testing.assert_allclose(starts[:, :2], np.tile([0.1, 0.0], (len(arrivals), 1)), atol=1e-6)
    np.testing.assert_allclose(goals[:, :2], np.tile([0.3, 0.1], (len(arrivals), 1)), atol=1e-6)
    alone = RecedingHorizonPlanner(
        model, SPEC, PlannerConfig(samples=16, elites=2, iterations=1, proposal="none")
    )
    alone.set_goal(latent(0.3, 0.1))
    without = alone.plan(latent(0, 0), None, np.tile([0.4, 0.0], (5, 1)))
    assert plan.predicted_distance < 0.3 * without.predicted_distance


def test_a_bad_proposal_is_not_taken():
    class Lost(PointMass):
        def inverse(self, starts, goals, arrivals):
            return torch.full((len(arrivals), 5, 10), -9.0)

    planner = RecedingHorizonPlanner(Lost(), SPEC)
    planner.set_goal(latent(0.2, 0.15))
    path = drive(planner, (0.0, 0.0), 12)
    assert np.linalg.norm(path[-1] - [0.2, 0.15]) < 0.02


def test_proposals_that_tell_nothing_of_held_out_actions_are_not_asked_for():
    class Judged(PointMass):
        def inverse(self, starts, goals, arrivals):
            raise AssertionError("asked")

    spec = dataclasses.replace(SPEC, training={"validation": {"inverse_5": -0.1}})
    planner = RecedingHorizonPlanner(Judged(), spec)
    planner.set_goal(latent(0.2, 0.15))
    assert planner.plan(latent(0.0, 0.0), None, None).actions.any()
    assert planner.config == PlannerConfig().resolved(temporal=False, inverse=False)


def test_a_proposal_without_a_head_is_refused():
    with pytest.raises(UserError, match="no inverse-dynamics head"):
        RecedingHorizonPlanner(PointMass(), SPEC, PlannerConfig(proposal="inverse_dynamics"))
    with pytest.raises(UserError, match="proposal 'oracle' is unknown"):
        PlannerConfig(proposal="oracle")


@pytest.mark.parametrize(("replan_tolerance", "horizons"), [(np.inf, [4, 3]), (0.001, [4, 5])])
def test_a_plan_that_costs_more_than_expected_chooses_its_arrival_anew(replan_tolerance, horizons):
    planner = RecedingHorizonPlanner(
        PointMass(), SPEC, PlannerConfig(replan_tolerance=replan_tolerance, samples=256)
    )
    planner.set_goal(latent(0.38, 0.0))
    chosen = [planner.plan(latent(0, 0), None, STILL).horizon]
    # somebody pushed the robot back: three steps are too few now
    chosen.append(planner.plan(latent(-0.1, 0.0), STILL, STILL).horizon)
    assert chosen == horizons


def test_waiting_at_the_goal_takes_fewer_candidates_than_finding_the_way():
    config = PlannerConfig(
        samples=8, elites=2, iterations=1, first_solve_multiplier=3, replan_tolerance=0.001
    )
    planner = RecedingHorizonPlanner(PointMass(), SPEC, config)
    planner.set_goal(latent(0.0, 0.0))
    assert [planner.plan(latent(0, 0), None, None).candidates for _ in range(3)] == [24, 8, 8]
    # Away from it, however it got there, it is chosen anew.
    planner.plan(latent(0.3, 0), None, None)
    planner.set_goal(latent(0.0, 0.0))
    assert planner.plan(latent(0.3, 0), None, None).candidates == 24


def test_a_deadline_stops_at_the_last_finished_iteration(passing):
    class Slow(PointMass):
        def rollout(self, *arguments):
            passing(0.02)
            return super().rollout(*arguments)

    config = PlannerConfig(iterations=50, deadline=200)
    planner = RecedingHorizonPlanner(Slow(), SPEC, config)
    planner.set_goal(latent(0.2, 0))
    plan = planner.plan(latent(0, 0), None, STILL)
    assert 1 <= plan.iterations < 50
    assert np.isfinite(plan.actions).all()
    limited = RecedingHorizonPlanner(Slow(), SPEC, PlannerConfig(iterations=50, deadline=0.001))
    limited.set_goal(latent(0.2, 0))
    assert limited.plan(latent(0, 0), None, STILL).iterations == 1
    unlimited = RecedingHorizonPlanner(PointMass(), SPEC, PlannerConfig(iterations=3))
    unlimited.set_goal(latent(0.2, 0))
    assert unlimited.plan(latent(0, 0), None, STILL).iterations == 3
    with pytest.raises(UserError, match="deadline must be from 0.001"):
        PlannerConfig(deadline=0)


def test_a_norm_below_the_range_is_penalised_from_there_on():
    latents = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 6.0]])  # norms 5, 2, 6
    goal = torch.tensor([0.0, 6.0])
    metric = WithOodPenalty(squared_distance, low=4.0, weight=10.0)
    np.testing.assert_allclose(metric(latents, goal), [13, 16 + 20, 0 + 20])


def test_the_squared_distance_resolves_places_near_the_goal_and_adds_little_elsewhere():
    coarse = WithSquaredDistance(lambda latents, goals: (latents - goals).norm(dim=-1).ceil(), weight=2.0)
    goal = torch.zeros(64)
    at, near, nearer = torch.zeros(64), torch.zeros(64), torch.zeros(64)
    near[0], nearer[0] = 0.9, 0.4
    assert float(coarse(at, goal)) == 0
    assert float(coarse(nearer, goal)) < float(coarse(near, goal)) < 1 + 2
    far = torch.stack([torch.full((64,), 1.4), torch.full((64,), 1.5)])
    added = coarse(far, goal) - (far - goal).norm(dim=-1).ceil()
    assert added.max() < 2
    assert float(added[1] - added[0]) < 0.05


@pytest.mark.parametrize(
    ("objective", "setting", "expected"), [("squared", None, 5), ("temporal", None, 8), ("temporal", 6, 6)]
)
def test_the_horizon_suits_the_objective_unless_it_is_given(objective, setting, expected):
    class Timed(PointMass):
        def temporal(self, starts, goals):
            return (starts - goals)[..., :2].norm(dim=-1) / 0.1

    planner = RecedingHorizonPlanner(
        Timed(), SPEC, PlannerConfig(objective=objective, horizon=setting, time_cost=0.0)
    )
    planner.set_goal(latent(1.5, 0.0))
    assert planner.plan(latent(0, 0), None, None).horizon == expected


class Mirage(PointMass):
    """Whatever goes to the left seems to be at the goal, with a norm far below the range of latent norms."""

    def rollout(self, latents, history_actions, candidates):
        out = super().rollout(latents, history_actions, candidates)
        out[..., 2] = 5.0  # within the range
        left = out[..., 0] < -0.02
        out[left] = 0.0
        out[..., 0] = torch.where(left, 0.3, out[..., 0])
        return out


@pytest.mark.parametrize(("ood_penalty", "right"), [(0.0, False), (10.0, True)])
def test_an_arrival_out_of_distribution_is_not_chosen(ood_penalty, right):
    spec = dataclasses.replace(SPEC, thresholds=Thresholds(norm_low=4.0, norm_high=6.0))
    planner = RecedingHorizonPlanner(Mirage(), spec, PlannerConfig(ood_penalty=ood_penalty))
    goal, start = latent(0.3, 0.0), latent(0.0, 0.0)
    start[2] = 5.0
    planner.set_goal(goal)
    moved = planner.plan(start, None, None).actions[:5, 0].sum()
    assert (moved > 0) == right


class Edge(PointMass):
    """The way to the right leads over an edge, which a risk head knows."""

    def risk(self, latents):
        return torch.where(latents[..., 0] > 0.1, 0.9, 0.0)


@pytest.mark.parametrize(("risk_penalty", "beyond"), [(0.0, True), (100.0, False)])
def test_with_a_penalty_no_plan_leads_to_the_event(risk_penalty, beyond):
    planner = RecedingHorizonPlanner(Edge(), SPEC, PlannerConfig(risk_penalty=risk_penalty, time_cost=0.0))
    planner.set_goal(latent(0.3, 0.0))
    plan = planner.plan(latent(0.0, 0.0), None, None)
    way = plan.actions[:, 0].cumsum() * SPEC.period
    assert (way.max() > 0.1) == beyond


def test_the_penalty_is_for_the_highest_probability_of_the_horizon():
    metric = WithRiskPenalty(squared_distance, lambda latents: latents[..., 0], weight=10.0)
    latents = torch.tensor([[0.1, 0.0], [0.5, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(metric(latents, torch.zeros(2)), [0.01 + 5, 0.25 + 5, 0 + 5], rtol=1e-6)


def test_a_plan_that_reaches_the_goal_and_then_leads_to_the_event_is_no_good_plan():
    model = Edge()
    metric = WithRiskPenalty(squared_distance, model.risk, weight=100.0)
    here, goal = (torch.from_numpy(latent(x, 0.0))[None] for x in (0.0, 0.05))
    cost = GoalDistance(model, here[None], torch.zeros(1, 0, 10), goal, metric, free_arrival=True)
    arrives, stands = torch.full((5, 2), 0.2), torch.zeros(5, 2)  # m/s, for five times 0.05 s
    blocks = torch.stack([torch.stack([arrives, stands]), torch.stack([arrives, 2 * arrives])])
    candidates = ((blocks - model.mean) / model.std).flatten(2)[None]
    stops, goes_on = cost(candidates)[0]
    assert stops < 1 < goes_on


class Slower(PointMass):
    """Moves to the right by a half only."""

    def rollout(self, latents, history_actions, candidates):
        out = super().rollout(latents, history_actions, candidates)
        out[..., 0] = (out[..., 0] + latents[:, -1, None, None, 0]) / 2
        return out


def to_the_right(metres, ensemble):
    """Return costs of plans of one block that lead so far (S,), with 0.1 m to go; and the distances."""
    model = PointMass()
    here, goal = (torch.from_numpy(latent(x, 0.0))[None] for x in (0.0, 0.1))
    cost = GoalDistance(model, here[None], torch.zeros(1, 0, 10), goal, ensemble=ensemble)
    blocks = torch.zeros(len(metres), 1, 5, 2)
    blocks[:, 0, :, 0] = (torch.as_tensor(metres) / (5 * SPEC.period))[:, None]
    costs = cost(((blocks - model.mean) / model.std).flatten(2)[None])[0]
    return costs, cost.distances[0, :, -1]


def test_the_predictors_of_an_ensemble_count_alike():
    metres = torch.tensor([0.0, 0.1, 0.2])
    costs, distances = to_the_right(metres, [Slower()])
    np.testing.assert_allclose(costs, ((metres - 0.1) ** 2 + (metres / 2 - 0.1) ** 2) / 2, atol=1e-6)
    np.testing.assert_allclose(distances, costs)
    np.testing.assert_allclose(to_the_right(metres, [])[0], (metres - 0.1) ** 2, atol=1e-6)


def test_what_the_ensemble_did_not_judge_is_finite_and_ranks_behind():
    costs, _ = to_the_right(torch.linspace(-0.3, 0.1, 40), [Slower()])
    assert costs.isfinite().all()
    assert costs[-16:].max() <= costs[:-16].min()
    assert (costs[:-17] > costs[1:-16]).all()  # in their own order


def test_a_plan_that_the_ensemble_cannot_imagine_costs_infinitely_much_and_no_other_does():
    class Broken(PointMass):
        def rollout(self, latents, history_actions, candidates):
            out = super().rollout(latents, history_actions, candidates)
            return torch.where(out[..., :1] > 0.05, torch.nan, out)

    costs, _ = to_the_right(torch.linspace(-0.3, 0.1, 40), [Broken()])
    assert costs.isinf().tolist() == [False] * 35 + [True] * 5


@pytest.mark.parametrize(("members", "counted"), [(16, 2), (1, 1), (0, 0)])
def test_the_planner_asks_as_many_further_predictors_as_it_may(members, counted):
    world, others = PointMass(), [PointMass(), PointMass()]
    world.ensemble = others
    planner = RecedingHorizonPlanner(world, SPEC, PlannerConfig(ensemble=members))
    planner.set_goal(latent(0.2, 0.0))
    planner.plan(latent(0.0, 0.0), None, None)
    assert [bool(other.contexts) for other in others] == [index < counted for index in range(2)]


def near_the_edge(variants):
    """Return costs of plans of one block that end 1 cm before the edge, and half a metre before it."""
    model = Edge()
    here, goal = (torch.from_numpy(latent(x, 0.0))[None] for x in (0.0, 0.09))
    cost = GoalDistance(model, here[None], torch.zeros(1, 0, 10), goal, variants=variants)
    blocks = torch.zeros(2, 1, 5, 2)
    blocks[:, 0, :, 0] = torch.tensor([0.09, -0.4])[:, None] / (5 * SPEC.period)
    candidates = ((blocks - model.mean) / model.std).flatten(2)[None]
    return cost(candidates)[0], cost.distances[0, :, -1]


def of_edge(count):
    no_limits = torch.full((10,), -torch.inf), torch.full((10,), torch.inf)
    return RiskOfVariants(Edge().risk, 100.0, shifts(count, 5, 2), no_limits, torch.zeros(10))


def test_a_plan_that_nearly_leads_to_the_event_costs_what_its_variants_risk():
    (near, far), distances = near_the_edge(of_edge(4))
    assert near == pytest.approx(100 * 0.9 / 2, abs=0.1)  # of the two variants to the right
    assert far < 1
    np.testing.assert_allclose(distances, [near, far])
    assert near_the_edge(None)[0][0] < 0.1


def test_beside_the_cheapest_candidates_the_event_counts_as_certain():
    model = Edge()
    here = torch.from_numpy(latent(0.0, 0.0))[None]
    cost = GoalDistance(model, here[None], torch.zeros(1, 0, 10), here, variants=of_edge(2))
    blocks = -torch.arange(40.0)[:, None, None].expand(40, 1, 10) / 100  # all away from the edge
    costs = cost(blocks[None])[0]
    assert (costs[:16] < 50).all()
    assert (costs[16:] >= 100).all()


def test_a_short_plan_is_imagined_to_the_end_of_what_it_sets_in_motion():
    shapes = []

    def imagine(candidates):
        shapes.append(candidates.shape)
        return torch.zeros(*candidates.shape[:3], 4)

    of_edge(3)(imagine, torch.zeros(1, 5, 1, 10))
    of_edge(3)(imagine, torch.zeros(1, 5, 8, 10))
    assert shapes == [(1, 15, 4, 10), (1, 15, 8, 10)]


def test_shifts_come_in_opposite_pairs_and_the_pairs_are_orthogonal():
    drawn = shifts(4, 5, 2)
    np.testing.assert_array_equal(drawn[0::2], -drawn[1::2])
    assert float(drawn[0] @ drawn[2]) == 0
    assert shifts(3, 2, 7).shape == (3, 14)


@pytest.mark.parametrize("variants", [0, 4])
def test_the_robot_keeps_off_an_edge_by_what_its_plan_may_be_off(variants):
    config = PlannerConfig(risk_penalty=100.0, risk_variants=variants, time_cost=0.0)
    planner = RecedingHorizonPlanner(Edge(), SPEC, config)
    planner.set_goal(latent(0.098, 0.0))
    way = planner.plan(latent(0.0, 0.0), None, None).actions[:, 0].cumsum() * SPEC.period
    shift = float(shifts(1, 5, 2)[0, 0]) * float(Edge().std[0]) * 5 * SPEC.period
    assert (way.max() < 0.1 - 0.9 * shift) == bool(variants)


@pytest.mark.parametrize("setting", ["ood_penalty", "risk_penalty", "squared_distance_weight"])
def test_what_is_below_nothing_is_refused(setting):
    with pytest.raises(UserError, match=setting):
        PlannerConfig(**{setting: -1})


@pytest.mark.parametrize(
    ("setting", "value"), [("first_solve_multiplier", 0), ("horizon", 0), ("samples", 1), ("iterations", 0)]
)
def test_settings_that_make_no_sense_are_refused_by_name(setting, value):
    with pytest.raises(UserError, match=setting):
        PlannerConfig(**{setting: value})


class Beginning(PointMass):
    """Notes which blocks each solve begins with: the first candidate of the first iteration."""

    def __init__(self):
        super().__init__()
        self.begun = []

    def rollout(self, latents, history_actions, candidates):
        if candidates.shape[1] > 1:
            self.begun.append(candidates[0, 0].clone())
        return super().rollout(latents, history_actions, candidates)


@pytest.mark.parametrize("passed", [1, 2, 3])
def test_after_a_gap_the_previous_plan_is_begun_where_it_is_now(passed):
    model = Beginning()
    planner = RecedingHorizonPlanner(model, SPEC, PlannerConfig(samples=64, iterations=1))
    planner.set_goal(latent(0.38, 0.0))
    before = planner.plan(latent(0, 0), None, STILL)
    model.begun.clear()
    after = planner.plan(latent(0, 0), None, STILL, passed)
    left = before.horizon - passed
    assert left > 0
    expected = ((before.actions.reshape(-1, 5, 2) - ACTION.mean) / ACTION.std)[passed:].reshape(left, 10)
    np.testing.assert_allclose(model.begun[0], expected, atol=1e-5)
    assert after.horizon == left


def test_a_plan_that_has_passed_is_dropped():
    planner = RecedingHorizonPlanner(PointMass(), SPEC)
    planner.set_goal(latent(0.38, 0.0))
    planner.plan(latent(0, 0), None, STILL)
    fresh = RecedingHorizonPlanner(PointMass(), SPEC)
    fresh.set_goal(latent(0.38, 0.0))
    fresh.generator.set_state(planner.generator.get_state())
    plans = [p.plan(latent(0, 0), None, STILL, 40) for p in (planner, fresh)]
    np.testing.assert_array_equal(plans[0].actions, plans[1].actions)


def test_after_a_step_without_a_plan_the_next_one_does_not_begin_a_step_late():
    class Sometimes(Beginning):
        broken = False

        def rollout(self, *arguments):
            return super().rollout(*arguments) * (torch.nan if self.broken else 1.0)

    model = Sometimes()
    planner = RecedingHorizonPlanner(model, SPEC, PlannerConfig(samples=64, iterations=1))
    planner.set_goal(latent(0.38, 0.0))
    before = planner.plan(latent(0, 0), None, STILL)
    model.broken = True
    with pytest.raises(ValueError, match="finite"):
        planner.plan(latent(0, 0), STILL, STILL)
    model.broken = False
    model.begun.clear()
    planner.plan(latent(0, 0), STILL, STILL)
    expected = ((before.actions.reshape(-1, 5, 2) - ACTION.mean) / ACTION.std)[2:].reshape(-1, 10)
    np.testing.assert_allclose(model.begun[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"elites": 100, "objective": "temporal", "proposal": "none"},
        {"elites": 100, "proposal": "none"},
        {"elites": 40},
    ],
)
def test_elites_are_judged_against_the_samples_that_are_used(settings):
    class Timed(PointMass):
        def temporal(self, starts, goals):
            return (starts - goals)[..., :2].norm(dim=-1) / 0.1

    planner = RecedingHorizonPlanner(Timed(), SPEC, PlannerConfig(**settings))
    assert planner.config.elites == settings["elites"]
    assert planner.config.samples >= settings["elites"]


def test_more_elites_than_samples_are_refused_with_the_samples_that_are_used():
    with pytest.raises(UserError, match="100 of 48"):
        RecedingHorizonPlanner(Proposing(), SPEC, PlannerConfig(elites=100))
    with pytest.raises(UserError, match="20 of 10"):
        PlannerConfig(samples=10, elites=20)


@pytest.mark.fault
def test_fault_58_the_goal_in_use_changes_nothing_however_often_it_comes():
    goal = GoalInUse()
    assert goal.latent is None
    assert [goal.take(ONE.copy()) for _ in range(5)] == [True, False, False, False, False]
    np.testing.assert_array_equal(goal.latent, ONE)


@pytest.mark.fault
def test_fault_58_a_goal_that_differs_or_is_equal_to_an_earlier_one_is_a_new_goal():
    goal = GoalInUse()
    assert [goal.take(latent) for latent in (ONE, OTHER, ONE)] == [True, True, True]


@pytest.mark.fault
def test_fault_58_after_planning_has_ended_the_same_goal_counts_once_more():
    goal = GoalInUse()
    goal.end()
    assert goal.take(ONE)
    before = goal.latent
    goal.end()
    assert goal.take(ONE)
    assert goal.latent is not before  # who compares by identity sees that it is another
    assert not goal.take(ONE)


def test_a_plan_says_what_it_costs_now_and_after_each_block():
    planner = RecedingHorizonPlanner(PointMass(), SPEC)
    planner.set_goal(latent(0.3, 0.0))
    plan = planner.plan(latent(0.0, 0.0), None, STILL)
    assert plan.cost_now == pytest.approx(0.09)
    assert plan.costs.shape == (plan.horizon,)
    assert plan.costs[-1] == pytest.approx(plan.predicted_distance, abs=1e-6)
    assert plan.costs[-1] < 0.1 * plan.cost_now


def test_with_a_temporal_head_they_are_model_steps_to_the_goal():
    model, spec = load_checkpoint(find_checkpoint("push"))
    planner = RecedingHorizonPlanner(model, spec, PlannerConfig(samples=8, elites=2, iterations=1))
    one, other = np.random.default_rng(0).normal(size=(2, spec.model.latent_dim)).astype(np.float32)
    planner.set_goal(other)
    plan = planner.plan(one, None, STILL)
    steps = planner.metric(torch.from_numpy(one)[None], torch.from_numpy(other))
    assert plan.cost_now == pytest.approx(float(steps.detach()[0]))
    assert plan.costs.shape == (plan.horizon,)


def test_a_goal_is_reached_and_left_only_after_several_steps_in_a_row():
    arrival = Arrival(1.0, steps=2)
    near, between, far = 0.9, 0.5 * (1 + LEFT), LEFT + 0.1
    assert [arrival.step(d) for d in (near, between, near, near, between)] == [
        False,
        False,
        False,
        True,
        True,
    ]
    assert [arrival.step(d) for d in (far, near, far, between, far, far)] == [True] * 5 + [False]
    arrival.step(near)
    within = "within it for 1 of the 2 model steps that it must stay there"
    assert str(arrival) == f"distance 0.90, threshold 1.00: {within}"
    arrival.reset()
    assert str(arrival) == "no distance yet, threshold 1.00"
    assert [arrival.step(near) for _ in range(2)] == [False, True]
    for never in (Arrival(None, 2), Arrival(1.0, 0)):
        assert not never.known
        assert not any(never.step(0.0) for _ in range(9))


def resting(**options):
    spec = dataclasses.replace(SPEC, thresholds=Thresholds(goal_reached=0.03**2))
    return RecedingHorizonPlanner(PointMass(), spec, PlannerConfig(**options))


def test_at_the_goal_it_stands_still_without_a_solve_until_the_goal_is_left_or_replaced():
    planner = resting(reached_steps=3)
    planner.set_goal(latent(0.2, 0.0))
    steps = [planner.plan(latent(0.2, 0.02), STILL, STILL) for _ in range(6)]
    assert [plan.reached for plan in steps] == [False, False, True, True, True, True]
    solves = len(planner.model.contexts)
    plan = planner.plan(latent(0.2, 0.02), STILL, STILL)
    assert len(planner.model.contexts) == solves
    np.testing.assert_array_equal(plan.actions, STILL)
    assert plan.distance == plan.predicted_distance == pytest.approx(0.02**2)
    assert plan.costs == [plan.cost_now]
    away = [planner.plan(latent(0.2, 0.1), STILL, STILL) for _ in range(4)]  # somebody moved the robot
    assert [plan.reached for plan in away] == [True, True, False, False]
    assert away[-1].actions[:5, 1].mean() < -0.1
    planner.set_goal(latent(-0.2, 0.02))
    assert not planner.plan(latent(0.2, 0.02), STILL, STILL).reached


def test_a_camera_that_is_noisy_keeps_no_robot_moving_at_the_goal():
    rng = np.random.default_rng(0)

    def path(planner):
        """Return how far the robot moves in the last twenty model steps."""
        planner.set_goal(latent(0.2, 0.0))
        position, running, executed, moved = np.zeros(2), STILL, None, []
        for _ in range(40):
            plan = planner.plan(latent(*position + rng.normal(0, 0.01, 2)), executed, running)
            executed, running = running, plan.actions[:5]
            moved.append(np.abs(0.05 * executed.sum(0)).sum())
            position = position + 0.05 * executed.sum(0)
        assert np.linalg.norm(position - [0.2, 0.0]) < 0.03
        return sum(moved[20:])

    assert path(resting()) == 0
    assert path(resting(reached_steps=0)) > 0.1


def test_a_warm_up_solves_however_soon_a_goal_counts_as_reached():
    planner = resting(reached_steps=1)
    planner.warm_up()
    assert len(planner.model.contexts) > SPEC.history
    assert planner.arrival.known


def test_with_the_object_objective_the_objects_distance_decides_where_the_checkpoint_has_its_threshold():
    model = PointMass()
    model.object = lambda starts, goals: (starts[..., 1] - goals[..., 1]).abs()  # the rest is the robot
    for threshold, reached in ((0.05, True), (None, False)):
        thresholds = Thresholds(goal_reached=0.03**2, object_reached=threshold)
        spec = dataclasses.replace(SPEC, thresholds=thresholds)
        planner = RecedingHorizonPlanner(model, spec, PlannerConfig(reached_steps=1, objective="object"))
        planner.set_goal(latent(0.3, 0.02))
        assert planner.plan(latent(0.0, 0.0), None, STILL).reached == reached


@pytest.mark.parametrize("solver", ["cem", "icem", "mppi", "gradient"])
def test_some_of_the_last_candidates_can_be_looked_at(solver):
    config = PlannerConfig(solver=solver, samples=40, elites=4, iterations=2, horizon=4)
    planner = RecedingHorizonPlanner(PointMass(), SPEC, config)
    assert planner.sampled().shape == (0, 0, 2)
    planner.set_goal(latent(0.1, 0.05))
    planner.plan(latent(0.0, 0.0), None, STILL)
    sampled = planner.sampled()
    least = 1 if solver == "gradient" else 8  # its last look is at the plan alone
    assert least <= len(sampled) <= SAMPLE
    assert sampled.shape[1:] == (4 * 5, 2)
    assert (sampled >= ACTION.low).all()
    assert (sampled <= ACTION.high).all()
    assert len(np.unique(sampled[:, 0, 0])) >= min(least, 2)
    planner.set_goal(None)
    assert planner.sampled().shape == (0, 0, 2)

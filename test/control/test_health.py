import pytest

from world_model_ros.control.health import Health, Sources


@pytest.fixture
def sources():
    return Sources()


def test_nobody_is_missed_who_was_never_there(sources):
    assert sources.worst() == (Health.FINE, "")
    sources.set_alive("planner_node", False)
    sources.say("encoder_node", Health.FINE, "")
    assert sources.worst() == (Health.FINE, "")


@pytest.mark.fault
def test_fault_21_who_is_gone_is_missed_until_back(sources):
    sources.set_alive("planner_node", True)
    sources.set_alive("planner_node", False)
    health, said = sources.worst()
    assert health is Health.HOLD
    assert "planner_node is gone" in said
    sources.set_alive("planner_node", True)
    assert sources.worst() == (Health.FINE, "")


@pytest.mark.parametrize(
    ("first", "second", "worst"),
    [
        (Health.WARNING, Health.HOLD, "b"),
        (Health.FAULT, Health.HOLD, "a"),
        (Health.HOLD, Health.FAULT, "b"),
        (Health.FINE, Health.WARNING, "b"),
    ],
)
def test_the_worst_is_said_with_its_name(sources, first, second, worst):
    for name, health in (("a", first), ("b", second)):
        sources.set_alive(name, True)
        sources.say(name, health, f"trouble of {name}")
    assert sources.worst() == (max(first, second), f"{worst}: trouble of {worst}")


def test_a_fault_comes_before_somebody_who_is_gone_and_that_before_a_warning(sources):
    sources.set_alive("a", True)
    sources.set_alive("a", False)
    sources.set_alive("b", True)
    sources.say("b", Health.WARNING, "dark")
    assert sources.worst()[0] is Health.HOLD
    sources.say("b", Health.FAULT, "broken")
    assert sources.worst() == (Health.FAULT, "b: broken")


def test_a_new_one_starts_without_the_old_ones_troubles(sources):
    sources.set_alive("a", True)
    sources.say("a", Health.FAULT, "broken")
    sources.set_alive("a", False)
    sources.set_alive("a", True)
    assert sources.worst() == (Health.FINE, "")


def test_faults_are_forgiven_and_other_troubles_stay(sources):
    for name, health in (("a", Health.FAULT), ("b", Health.HOLD)):
        sources.set_alive(name, True)
        sources.say(name, health, "trouble")
    sources.forgive()
    assert sources.worst() == (Health.HOLD, "b: trouble")
    sources.say("a", Health.FAULT, "trouble")
    assert sources.worst()[0] is Health.FAULT

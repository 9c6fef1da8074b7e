import pytest

from world_model_ros.safety.health import AnomalyHolds, Health, Rivals, Sources

SECOND = 1_000_000_000


class Beats:
    """Heartbeats of nodes on a steady clock of the test's own, looked at every 50 ms."""

    def __init__(self):
        self.sources = Sources(lease=0.7)
        self.now = 100.0

    def report(self, name, health=Health.FINE, reason="", **fields):
        self.sources.report(name, self.now, health, reason, **fields)

    def wait(self, seconds, **reports):
        """Let time pass; the nodes named report every ``seconds`` of theirs."""
        due = {name: self.now + every for name, every in reports.items()}
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now += 0.05
            for name, every in reports.items():
                if self.now >= due[name] - 1e-9:
                    self.report(name)
                    due[name] = self.now + every
            self.sources.look(self.now)

    def worst(self):
        return self.sources.worst()


@pytest.fixture
def beats():
    return Beats()


def test_nobody_is_missed_who_was_never_there_or_never_active(beats):
    assert beats.worst() == (Health.FINE, "", "")
    beats.report("encoder_node", state="inactive")
    beats.wait(5.0)
    assert beats.worst() == (Health.FINE, "", "")
    assert beats.sources.watched() == []
    beats.report("encoder_node")
    assert beats.sources.watched() == ["encoder_node"]


@pytest.mark.fault
def test_fault_54_a_node_whose_heartbeat_stops_is_missed_until_it_is_back(beats):
    beats.wait(2.0, planner_node=0.1)
    assert beats.worst()[0] is Health.FINE
    beats.wait(0.6)
    assert beats.worst()[0] is Health.FINE
    beats.wait(0.2)
    worst = beats.worst()
    assert worst[:2] == (Health.HOLD, "planner_node")
    assert "planner_node does not respond (last heartbeat 0." in worst[2]
    beats.wait(3.0)
    assert beats.worst() == worst  # a sentence that counts up would be logged for ever
    beats.report("planner_node")
    assert beats.worst()[0] is Health.FINE


@pytest.mark.fault
def test_fault_54_a_heartbeat_that_comes_late_on_a_busy_computer_may_come_as_late_again(beats):
    for _ in range(10):
        beats.wait(0.5)
        beats.report("planner_node")
    beats.wait(1.4)
    assert beats.worst()[0] is Health.FINE
    beats.wait(0.2)
    assert "does not respond" in beats.worst()[2]
    beats.report("planner_node")  # after 1.6 s: three times that are more than anybody is waited for
    beats.wait(1.95)
    assert beats.worst()[0] is Health.FINE
    beats.wait(0.1)
    assert "does not respond" in beats.worst()[2]
    beats.wait(11.0, planner_node=0.1)  # then the late ones do not count any more
    beats.wait(0.8)
    assert "does not respond" in beats.worst()[2]


@pytest.mark.fault
def test_fault_54_our_own_lateness_is_not_the_others(beats):
    beats.wait(1.0, planner_node=0.1)
    beats.now += 30.0  # we were not given a processor
    beats.sources.look(beats.now)
    assert beats.worst()[0] is Health.FINE
    beats.wait(0.7)
    assert "does not respond" in beats.worst()[2]


@pytest.mark.parametrize(
    ("state", "expected"), [("inactive", "planner_node is not active"), ("ended", "planner_node was ended")]
)
def test_a_node_that_was_deactivated_or_ended_is_named_as_such(beats, state, expected):
    beats.report("planner_node")
    beats.report("planner_node", state=state)
    assert beats.worst()[0] is Health.HOLD
    assert expected in beats.worst()[2]
    beats.wait(5.0)
    assert expected in beats.worst()[2]
    beats.report("planner_node")
    assert beats.worst()[0] is Health.FINE


@pytest.mark.parametrize(
    ("first", "second", "worst"),
    [
        (Health.WARNING, Health.HOLD, "b"),
        (Health.FAULT, Health.HOLD, "a"),
        (Health.HOLD, Health.FAULT, "b"),
        (Health.FINE, Health.WARNING, "b"),
    ],
)
def test_the_worst_is_said_with_its_name(beats, first, second, worst):
    for name, health in (("a", first), ("b", second)):
        beats.report(name, health, f"trouble of {name}")
    assert beats.worst() == (max(first, second), worst, f"{worst}: trouble of {worst}")


def test_a_fault_comes_before_somebody_who_is_missed_and_that_before_a_warning(beats):
    beats.report("a")
    beats.wait(1.0)
    beats.report("b", Health.WARNING, "dark")
    assert beats.worst()[:2] == (Health.HOLD, "a")
    beats.report("b", Health.FAULT, "broken")
    assert beats.worst() == (Health.FAULT, "b", "b: broken")


@pytest.mark.fault
def test_fault_55_a_cleared_fault_is_back_with_the_next_report_and_nothing_is_known_before(beats):
    beats.report("a", Health.FAULT, "broken")
    beats.report("b", Health.HOLD, "trouble")
    beats.sources.clear_faults()
    assert beats.worst() == (Health.HOLD, "b", "b: trouble")  # other troubles stay
    assert beats.sources.unconfirmed() == "a"
    beats.report("a", Health.FAULT, "broken")
    assert beats.worst()[0] is Health.FAULT
    beats.sources.clear_faults()
    beats.report("a")
    assert not beats.sources.unconfirmed()


def test_a_hold_can_be_overridden_but_a_node_that_is_missed_cannot(beats):
    beats.report("monitor_node", Health.HOLD, "strange")
    assert beats.sources.worst("monitor_node") == (Health.WARNING, "monitor_node", "monitor_node: strange")
    assert beats.sources.holds("monitor_node")
    beats.wait(1.0)
    assert beats.sources.worst("monitor_node")[0] is Health.HOLD
    assert not beats.sources.holds("monitor_node")


@pytest.mark.fault
def test_fault_43_another_process_with_our_name_is_there_as_long_as_it_is_heard():
    rivals = Rivals()
    assert not rivals.present(0.0)
    rivals.report(10.0)
    assert rivals.present(10.9)
    assert not rivals.present(11.1)


@pytest.mark.fault
def test_fault_46_an_override_lasts_for_its_time_and_not_beyond_a_clock_that_is_set_back():
    holds = AnomalyHolds(override_time=5.0)
    assert not holds.overridden(0)
    holds.override(10 * SECOND)
    assert holds.overridden(10 * SECOND)
    assert holds.overridden(15 * SECOND)
    assert not holds.overridden(16 * SECOND)
    holds.override(10 * SECOND)
    assert not holds.overridden(2 * SECOND)
    assert not holds.overridden(12 * SECOND)


@pytest.mark.fault
def test_fault_47_the_third_hold_within_the_window_is_a_fault():
    holds = AnomalyHolds(window=20.0)
    faults = [bool(holds.began(at * SECOND)) for at in (0, 15, 30, 34, 60, 82, 84)]
    assert faults == [False, False, False, True, False, False, False]
    holds.began(85 * SECOND)
    holds.reset()
    assert holds.began(86 * SECOND) == ""

import numpy as np
import pytest

from world_model_ros.safety.joints import JointCollector, integrate, match_joints, split_names

NAMES = ["x", "b", "a"]
VALUES = [9.0, 2.0, 1.0]
SECOND = 1_000_000_000


@pytest.mark.fault
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_fault_10_joints_are_matched_by_name_whatever_the_order(order):
    values = match_joints(("a", "b"), [NAMES[i] for i in order], [VALUES[i] for i in order])
    assert values.tolist() == [1.0, 2.0]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("names", "values", "expected"),
    [
        (["a"], [1.0], "joint b 0 times"),
        (["a", "b", "b"], [1.0, 2.0, 3.0], "joint b 2 times"),
        (["a", "b", "b"], [1.0, 2.0, 2.0], "joint b 2 times"),
        (["a", "b"], [1.0], "2 names and 1 values"),
        (["a", "b"], [], "2 names and 0 values"),
        ([], [], "joint a 0 times"),
    ],
)
def test_fault_11_missing_or_duplicated_joints_are_refused(names, values, expected):
    with pytest.raises(ValueError, match=expected):
        match_joints(("a", "b"), names, values)


@pytest.mark.fault
def test_fault_11_extra_joints_are_ignored_whatever_they_say():
    assert match_joints(("a",), ["x", "a", "x"], [np.nan, 1.0, np.inf]).tolist() == [1.0]


@pytest.mark.fault
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_fault_12_joints_that_are_not_finite_are_refused(broken):
    with pytest.raises(ValueError, match="joint_states holds numbers that are not finite"):
        match_joints(("a", "b"), ["a", "b"], [1.0, broken])


def test_the_topic_is_named():
    with pytest.raises(ValueError, match="command/executed"):
        match_joints(("a",), [], [], "command/executed")


def test_positions_are_integrated_to_the_end_of_each_step():
    assert integrate([1.0], [[2.0], [4.0]], 0.5).tolist() == [[2.0], [4.0]]


MS = 1_000_000


class Reports:
    """A JointCollector of joints a and b, on a clock of the test's own."""

    def __init__(self, **settings):
        self.collector = JointCollector(("a", "b"), speed=(0.2, 0.2), **settings)
        self.now = 1000 * MS

    def add(self, names, positions, publisher=None, later=10):
        self.now += later * MS
        return self.collector.add(self.now, self.now, names, positions, publisher)

    def positions(self):
        return self.collector.positions(self.now, 500 * MS)


@pytest.fixture
def reports():
    return Reports()


@pytest.mark.fault
def test_fault_51_joints_are_collected_over_publishers_with_an_age_each(reports):
    assert reports.collector.missing() == "no joint_states yet"
    assert reports.add(["a"], [1.0], "/arm") == ""
    assert reports.collector.missing() == "no position of b in joint_states yet"
    assert reports.positions() is None
    assert reports.add(["b"], [2.0], "/hand") == ""
    assert reports.collector.complete
    assert reports.positions().tolist() == [1.0, 2.0]
    for _ in range(30):
        reports.add(["a"], [1.0], "/arm", later=20)
    assert reports.collector.stale(reports.now, 500 * MS) == ("b",)
    assert reports.positions() is None
    reports.add(["b"], [2.0], "/hand")
    assert reports.collector.stale(reports.now, 500 * MS) == ()


@pytest.mark.fault
def test_fault_51_what_is_not_ours_is_ignored_whatever_it_says(reports):
    assert reports.add(["finger"], [np.nan]) == ""
    assert reports.add(["finger", "finger"], []) == ""
    assert reports.add(["finger", "a", "b"], [np.inf, 1.0, 2.0]) == ""
    assert reports.positions().tolist() == [1.0, 2.0]
    assert "not finite" in reports.add(["a", "b"], [np.nan, 2.01])
    assert reports.positions().tolist() == [1.0, 2.01]  # b's own is used


@pytest.mark.fault
@pytest.mark.parametrize(
    ("names", "positions", "expected"),
    [(["a", "a"], [1.0, 1.0], "joint a 2 times"), (["a", "b"], [1.0], "2 names and 1 values")],
)
def test_fault_11_a_message_that_contradicts_itself_is_refused(reports, names, positions, expected):
    assert expected in reports.add(names, positions)
    assert not reports.collector.complete


@pytest.mark.fault
def test_fault_50_two_publishers_that_contradict_each_other_are_named_while_they_do(reports):
    for _ in range(3):
        reports.add(["a", "b"], [0.5, 0.0], "/arm")
        reports.add(["a", "b"], [0.0, 0.0], "/simulator")
    reason = reports.collector.suspect(reports.now)
    assert "/arm" in reason
    assert "/simulator" in reason
    assert "contradict each other about a" in reason
    for _ in range(102):
        reports.add(["a", "b"], [0.5, 0.0], "/arm")
    assert reports.collector.suspect(reports.now) == ""
    assert reports.positions().tolist() == [0.5, 0.0]


@pytest.mark.fault
def test_fault_50_where_messages_do_not_tell_their_publisher_all_of_them_are_named():
    reports = Reports(publishers=lambda: ["/arm", "/simulator"])
    reports.add(["a", "b"], [0.5, 0.0])
    reports.add(["a", "b"], [0.0, 0.0])
    assert "/arm and /simulator contradict each other" in reports.collector.suspect(reports.now)


def test_publishers_that_agree_but_for_a_delay_do_not_contradict_each_other(reports):
    for step in range(100):
        reports.add(["a", "b"], [0.002 * step, 0.0], "/arm")
        reports.add(["a", "b"], [0.002 * step - 0.02, 0.0], "/bridge", later=0)
        assert reports.collector.suspect(reports.now) == ""


def test_a_joint_that_was_moved_while_nobody_reported_it_has_not_jumped(reports):
    reports.add(["a", "b"], [0.0, 0.0])
    reports.add(["a", "b"], [0.5, 0.0], later=2000)
    assert reports.collector.suspect(reports.now) == ""
    reports.add(["a", "b"], [1.0, 0.0])
    assert "a jumped, faster than it can move" in reports.collector.suspect(reports.now)


@pytest.mark.fault
def test_fault_52_a_continuous_joint_is_unwrapped():
    reports = Reports(continuous=("a",))
    for position in (3.10, 3.13, -3.13, -3.10, 3.14):
        reports.add(["a", "b"], [position, 0.0], later=50)
        assert reports.collector.suspect(reports.now) == ""
        assert reports.positions()[0] == pytest.approx(position % (2 * np.pi))


@pytest.mark.fault
def test_fault_52_a_turn_of_a_joint_that_has_an_end_names_the_parameter(reports):
    reports.add(["a", "b"], [3.13, 0.0])
    reports.add(["a", "b"], [-3.13, 0.0])
    assert "continuous_joints" in reports.collector.suspect(reports.now)
    assert "a jumped by -6.26 rad" in reports.collector.suspect(reports.now)


def test_joints_have_a_prefix_and_one_that_is_lacking_is_guessed():
    reports = Reports(prefix="left_")
    reports.add(["left_a", "left_b"], [1.0, 2.0])
    assert reports.positions().tolist() == [1.0, 2.0]
    reports = Reports()
    reports.add(["left_a", "left_b"], [1.0, 2.0])
    reason = reports.collector.missing()
    assert "a, b" in reason
    assert "left_a, left_b" in reason
    assert "joint_prefix to 'left_'" in reason


def test_where_the_joints_were_is_known_across_a_restart_but_does_not_count_as_reported(reports):
    reports.add(["a", "b"], [1.0, 2.0])
    reports.collector.restart()
    assert not reports.collector.complete
    assert reports.positions().tolist() == [1.0, 2.0]
    reports.collector.reset()
    assert reports.positions() is None


def test_a_robot_whose_actions_are_no_joints_is_only_to_report_something():
    collector = JointCollector()
    assert collector.add(0, 0, ["wheel"], []) == ""
    assert collector.complete
    assert collector.positions(0, 500 * MS) is None
    assert collector.stale(600 * MS, 500 * MS)
    assert "not finite" in collector.add(600 * MS, 0, ["wheel"], [np.nan])
    assert "more than once" in collector.add(600 * MS, 0, ["wheel", "wheel"], [0.0, 0.0])


def test_names_are_split_at_commas_and_blanks():
    assert split_names(" a, b c,") == ("a", "b", "c")
    assert split_names("") == ()


def test_a_joint_without_a_position_is_named():
    collector = JointCollector(("a", "b"), prefix="left_")
    assert collector.unusable(0, SECOND) == "no joint_states yet: the position of left_a, left_b is needed"
    collector.add(0, 0, ["left_a"], [0.0])
    assert collector.unusable(0, SECOND) == "no position of left_b in joint_states yet"
    collector.add(SECOND, SECOND, ["left_b"], [float("nan")])
    assert collector.unusable(SECOND, SECOND).endswith("not finite: the position of left_b is needed")
    collector.add(SECOND, SECOND, ["left_b"], [0.0])
    assert collector.unusable(SECOND, SECOND) == ""
    assert collector.positions(SECOND, SECOND) is not None
    lost = "joint_states had no position of left_a for more than 1 s"
    assert collector.unusable(SECOND + 1, SECOND) == lost
    assert collector.positions(SECOND + 1, SECOND) is None


@pytest.mark.fault
@pytest.mark.parametrize("continuous", [(), ("a",)])
def test_fault_12_a_position_where_no_joint_can_be_is_not_used(continuous):
    reports = Reports(continuous=continuous)
    assert reports.add(["a", "b"], [0.5, 0.5]) == ""
    for position in (1.7e308, -1.7e308, 2e9):
        assert "where no joint is" in reports.add(["a"], [position])
        assert reports.positions().tolist() == [0.5, 0.5]


@pytest.mark.fault
@pytest.mark.parametrize(("leap", "turn"), [(6.3, True), (-6.2, True), (56.55, False), (1e8, False)])
def test_a_jump_of_one_turn_alone_is_said_to_be_one(reports, leap, turn):
    reports.add(["a"], [0.0])
    reports.add(["a"], [leap])
    assert ("about a turn" in reports.collector.suspect(reports.now)) is turn
    assert "jumped" in reports.collector.suspect(reports.now)

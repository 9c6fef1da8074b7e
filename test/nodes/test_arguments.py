"""What a node was started with is refused where ROS would ignore it. Needs no ROS."""

from pathlib import Path

import pytest

from world_model_ros.errors import UserError
from world_model_ros.nodes.arguments import check, check_file, explain

ROOT = Path(__file__).resolve().parents[2]
FULL = {node: f"/{node}" for node in ("encoder_node", "planner_node", "command_node", "monitor_node")}


@pytest.fixture
def write(tmp_path):
    def into(text):
        file = tmp_path / "robot.yaml"
        file.write_text(text)
        return file

    return into


def section(name, *lines):
    return "\n".join([f"{name}:", "  ros__parameters:", *(f"    {line}" for line in lines)])


@pytest.mark.fault
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (section("/**/command_node", "limits.maxstep: [0.1]"), "did you mean limits.max_step?"),
        (section("/**/command_node", "joint_timout: 0.2"), "did you mean joint_timeout?"),
        (section("/**", "limits.lo: [0.1]"), "did you mean limits.low?"),
        (section("/**", "limits:", "  maxstep: [0.1]"), "no parameter limits.maxstep"),
        (section("command_node", "zzzzz: 1"), "known are "),
        (section("/**/command_node", "enabled: true"), "planner_node has: move it there"),
        (
            section("/**/comand_node", "limits.low: [0.1]"),
            "there is no comand_node, did you mean command_node?",
        ),
        (section("/**/commandnode", "limits.low: [0.1]"), "did you mean command_node?"),
        (section("/**/planner", "enabled: true"), "did you mean planner_node?"),
        (section("/other/command_node", "lease: 1.0"), "has no section for /command_node"),
        (
            "other:\n  command_node:\n    ros__parameters:\n      lease: 1.0",
            "has no section for /command_node",
        ),
        (section("/**", "limits.low: [-0.2, 0]"), "limits.low is [-0.2, 0]: give a list of numbers"),
        (section("/**", "plan_timeout: 1"), "plan_timeout is 1: write 1.0."),
        ("a: [", "line 1 is not YAML"),
        ("a: " + "[" * 5000, "is not YAML: it is nested too deeply"),
        ("a: 2001-99-99", "is not YAML: month must be in 1..12"),
        ("a: !!int x", "is not YAML: invalid literal for int()"),
        ("a: " + "9" * 5000, "line 1 is not YAML: a number of 5000 characters is too long"),
        ("a: 0x" + "f" * 5000, "is not YAML: a number of 5002 characters is too long"),
        ("a: 1" + ":1" * 500_000, "is not YAML: a number of 1000001 characters is too long"),
        ("a: 1" + ":1" * 5000 + ".5", "is not YAML: a number of 10003 characters is too long"),
        ("a: 1" + ":1" * 400 + ".5", "is not YAML: int too large to convert to float"),
        ("a: !!int ''", "line 1 is not YAML: '' is no int"),
        ("a: !!float ''", "line 1 is not YAML: '' is no float"),
        ("\na: !!bool perhaps", "line 2 is not YAML: 'perhaps' is no bool"),
        ("a: !!timestamp noon", "line 1 is not YAML: 'noon' is no timestamp"),
        ("a: !!timestamp [1]", "line 1 is not YAML: expected a scalar node"),
        ("a: !!map text", "line 1 is not YAML: expected a mapping node"),
        ('a: "\\ud800"', "line 1 is not YAML: half of a character cannot be printed"),
        ("a: !!python/object/apply:os.system ['true']", "is not YAML: could not determine a constructor"),
        ("a: '" + "x" * (1 << 20) + "'", "is not YAML: it has more than 1048576 bytes"),
        (
            section("/**/command_node", "lease: 1.0", "lease: 2.0"),
            "line 4 is not YAML: 'lease' stands twice",
        ),
        ("a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]", "line 2 is not YAML: *a stands for another part"),
    ],
)
def test_fault_44_what_would_be_ignored_is_refused_with_the_nearest_name(write, text, expected):
    file = write(text)
    with pytest.raises(UserError) as caught:
        check_file(file, FULL)
    assert expected in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        section("/**", "limits.low: [-0.2]", "enabled: true", "use_sim_time: true"),
        section("/**/command_node", "qos_overrides./plan.subscription.depth: 2"),
        section("/**/command_node", "limits:", "  low: [-0.2]"),
        section("/camera", "exposure: 3"),
        section("/**/controller_manager", "update_rate: 100"),
        section("command_node", "lease: 1.0") + "\n" + section("/other/command_node", "lease: 2.0"),
        section("/*", "lease: 1.0"),
    ],
)
def test_what_some_node_knows_and_what_other_packages_have_is_taken(write, text):
    check_file(write(text), FULL)


@pytest.mark.parametrize("name", ["robot_arm", "robot_base", "sim"])
def test_the_shipped_files_are_taken_in_every_namespace(name):
    file = ROOT / "config" / f"{name}.yaml"
    check_file(file, FULL)
    check_file(file, {node: f"/left/arm{full}" for node, full in FULL.items()})


def test_the_description_of_a_robot_is_no_parameter_file():
    with pytest.raises(
        UserError, match="robot.yaml has no parameters of nodes: give a copy of config/robot_arm"
    ):
        check_file(ROOT / "config" / "robot.yaml", FULL)


def test_sections_are_matched_by_the_name_that_the_node_is_given(write):
    file = write(section("/left/arm", "lese: 1.0"))
    words = ["--ros-args", "--params-file", str(file), "-r", "__node:=arm", "--remap", "__ns:=/left"]
    with pytest.raises(UserError, match="did you mean lease"):
        check("command_node", words)
    check("command_node", words[:3])  # another node's


@pytest.mark.fault
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-p", "joint_timout:=1.0"), "did you mean joint_timeout?"),
        (("--param", "command_node:joint_timout:=1.0"), "did you mean joint_timeout?"),
        (("-p", "comand_node:lease:=0.3"), "there is no comand_node, did you mean command_node?"),
        (("-p", "hold:=true"), "monitor_node has"),
        (("-p", "plan_timeout:=1"), "plan_timeout is 1: write 1.0."),
        (("-p", "limits.low:=3"), "limits.low is 3: give a list of numbers with decimal points."),
        (("-p", "limits.low:=[-0.2, 0]"), "limits.low is [-0.2, 0]: give a list of numbers"),
        (("--log-level", "loud"), "log_level is 'loud': choose one of debug, info, warn, error, fatal"),
        (("--log-level", "rcl:=loud"), "log_level is 'loud'"),
        (("--params-file", "/nowhere/robot.yaml"), "cannot read the parameter file /nowhere/robot.yaml"),
    ],
)
def test_fault_44_words_of_the_command_line_are_refused_with_what_would_do(words, expected):
    with pytest.raises(UserError) as caught:
        check("command_node", ["--ros-args", *words])
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-p", "joint_timout:=1.0"),  # before --ros-args: not ROS's
        ("--ros-args", "-p", "joint_timeout:=1.0", "-p", "use_sim_time:=true", "--log-level", "WARN"),
        ("--ros-args", "-p", "other_node:joint_timout:=1.0", "--", "-p", "joint_timout:=1.0"),
        ("--ros-args", "--log-level", "rcl:=debug", "--disable-stdout-logs", "-p"),
    ],
)
def test_words_that_are_fine_or_not_ours_are_left_alone(words):
    if words[-1:] == ("-p",):
        words = words[:-1]
    check("command_node", list(words))


def test_complaints_of_rcl_become_a_sentence():
    text = explain(
        RuntimeError(
            "failed to initialize rcl: Couldn't parse params file: '--params-file /tmp/p.yaml'. Error: "
            "Sequence should be of same type. Value type 'integer' do not belong at line_num 3, at "
            "/project/src/parse.c:350, at /project/src/rcl/arguments.c:415"
        )
    )
    assert text.startswith("Couldn't parse params file: '--params-file /tmp/p.yaml'.")
    assert text.endswith("line_num 3: write every number of a list with a decimal point, such as 0.0.")
    assert "/project" not in text


@pytest.mark.ros
@pytest.mark.fault
@pytest.mark.parametrize("node", ["sim_node", *FULL])
def test_fault_44_a_node_refuses_an_unknown_name_in_a_sentence_with_exit_code_2(processes, observer, node):
    process = processes.start("-m", "world_model_ros.nodes", node, "--ros-args", "-p", "chekpoint:=reach")
    observer.until(lambda: process.poll() is not None)
    assert process.returncode == 2
    log = process.log.read_text()
    assert "there is no parameter chekpoint" in log
    assert "Traceback" not in log
    assert len(log.splitlines()) == 1


@pytest.mark.ros
@pytest.mark.fault
@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("solver:=foo", "planner_node: solver is 'foo': choose one of auto, cem, icem, mppi, gradient."),
        ("plan_timeout:=soon", "plan_timeout of planner_node has another type: give a number with a decimal"),
        ("robot:=missing.yaml", "there is no robot file missing.yaml"),
    ],
)
def test_a_value_that_is_refused_is_one_sentence(processes, observer, word, expected):
    process = processes.start("-m", "world_model_ros.nodes", "planner_node", "--ros-args", "-p", word)
    observer.until(lambda: process.poll() is not None)
    assert process.returncode == 2
    (line,) = process.log.read_text().splitlines()
    assert line.startswith("error: ")
    assert expected in line


@pytest.mark.parametrize("node", ["sim_node", *FULL])
def test_help_names_every_parameter_and_starts_nothing(monkeypatch, capsys, node):
    from world_model_ros.nodes import __main__ as executable
    from world_model_ros.nodes.parameters import PARAMETERS

    monkeypatch.setattr("sys.argv", [node, "--help"])
    assert executable.start(node) == 0
    text = capsys.readouterr().out
    assert f"ros2 run world_model_ros {node} --ros-args" in text.replace("[", "")
    assert {p.name for p in PARAMETERS[node]} <= set(text.split())


@pytest.mark.ros
@pytest.mark.fault
@pytest.mark.parametrize(
    "words", [("-p", "limits.low:=[-0.2, 0]"), ("-p", "limits.low:=[0, 1]"), ("-r", "nothing")]
)
def test_fault_44_what_ros_cannot_read_is_a_sentence_with_exit_code_2(processes, observer, words):
    process = processes.start("-m", "world_model_ros.nodes", "command_node", "--ros-args", *words)
    observer.until(lambda: process.poll() is not None)
    assert process.returncode == 2
    log = process.log.read_text()
    assert words[1].partition(":=")[0] in log
    assert "Traceback" not in log
    assert log.count("error: ") == 1  # beside rcl's own line

"""robot.launch.py and the parameter files that come with the package."""

import importlib.util
import os
import re
import signal
import stat
from pathlib import Path

import pytest
import yaml

from world_model_ros.nodes import deploy, environment, starter
from world_model_ros.nodes.parameters import PARAMETERS

ROOT = Path(__file__).resolve().parents[2]
NODES = ("encoder_node", "planner_node", "command_node", "monitor_node", "imagination_node")
FILES = sorted(
    {path.name for path in (ROOT / "config").glob("*.yaml")} - {"robot.yaml"}
)  # which is no parameters
HERE = importlib.util.find_spec("launch_ros") is not None
needs_launch = pytest.mark.skipif(not HERE, reason="launch_ros is not installed here")
RUN = (
    "import sys; from launch import LaunchDescription, LaunchService;"
    "from launch.actions import IncludeLaunchDescription as Include;"
    "from launch.launch_description_sources import PythonLaunchDescriptionSource as Source;"
    "service = LaunchService();"
    "arguments = [word.split(':=') for word in sys.argv[2:]];"
    "service.include_launch_description("
    "LaunchDescription([Include(Source(sys.argv[1]), launch_arguments=arguments)]));"
    "raise SystemExit(service.run())"
)


@pytest.mark.parametrize("name", FILES)
def test_every_parameter_of_the_files_is_declared_and_its_value_allowed(name):
    sections = yaml.safe_load((ROOT / "config" / name).read_text())
    for section, content in sections.items():
        nodes = PARAMETERS if section == "/**" else [section.removeprefix("/**/")]
        for key, value in content["ros__parameters"].items():
            if key == "use_sim_time":
                continue
            declared = [p for node in nodes for p in PARAMETERS[node] if p.name == key]
            assert declared, f"{section} has no parameter {key}"
            value = tuple(value) if isinstance(value, list) else value
            for parameter in declared:
                assert type(value) is type(parameter.default), key
                assert not parameter.problem(value)
                assert not isinstance(value, tuple) or all(isinstance(v, float) for v in value), key


def test_the_robots_limits_have_a_number_for_each_joint():
    for name, joints in (("robot_arm.yaml", 7), ("robot_base.yaml", 2)):
        sections = yaml.safe_load((ROOT / "config" / name).read_text())
        everywhere, command = (sections[at]["ros__parameters"] for at in ("/**", "/**/command_node"))
        # The planner has to know how fast the robot may be.
        assert {"limits.low", "limits.high"} <= set(everywhere)
        assert {len(v) for k, v in (everywhere | command).items() if k.startswith("limits.")} == {joints}


def test_launch_and_parameter_files_are_installed():
    text = (ROOT / "setup.py").read_text()
    assert {'*tree("launch")', '*tree("config")'} <= set(re.findall(r'\*tree\("\w+"\)', text))
    assert {"record.launch.py", "robot.launch.py", "sim.launch.py"} <= {
        p.name for p in (environment.share() / "launch").iterdir()
    }
    assert {
        "record.yaml",
        "robot_arm.yaml",
        "robot_base.yaml",
        "sim.yaml",
        "fastdds.xml",
        "fastdds_udp.xml",
        "fastdds_udp_localhost.xml",
    } <= {path.name for path in (environment.share() / "config").iterdir()}


def test_what_the_page_on_deployment_names_is_there():
    page = (ROOT / "docs" / "deploy.md").read_text()
    known = {name for name, *_ in deploy.ARGUMENTS}
    assert {"checkpoint", "namespace", "camera", "log_level"} <= known
    assert set(re.findall(r"(\w+):=", page)) <= known
    source = "".join(path.read_text() for path in (ROOT / "world_model_ros" / "nodes").glob("*.py"))
    for name in re.findall(r"service call /(\S+)|topic pub --once /(\S+)", page):
        assert f'"{"".join(name)}"' in source, name
    for name in re.findall(r"`(limits\.\w+|\w+_timeout|lease|enabled|command\.interface)`", page):
        assert (
            any(p.name == name for table in PARAMETERS.values() for p in table) or name == "cmd_vel_timeout"
        )


def load():
    spec = importlib.util.spec_from_file_location("robot_launch", ROOT / "launch" / "robot.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def described(**given):
    """Return {node: (remappings, parameters)} of the launch file under these arguments."""
    from launch.actions import DeclareLaunchArgument

    from launch import LaunchContext

    module, context = load(), LaunchContext()
    context.launch_configurations.update(given)
    for entity in module.generate_launch_description().entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
    nodes_of = {}
    for node in module.nodes(context):
        node._perform_substitutions(context)
        *files, wins = node._Node__expanded_parameter_arguments
        needed = {True: [], False: [str(ROOT / "config" / "robot_arm.yaml")]}[bool(given.get("robot"))]
        assert [path for path, _ in files] == ([given["params_file"]] if given.get("params_file") else needed)
        (values,) = yaml.safe_load(Path(wins[0]).read_text()).values()
        nodes_of[node.node_name] = (dict(node.expanded_remapping_rules), values["ros__parameters"])
    return nodes_of


@needs_launch
def test_arguments_become_remaps_and_only_what_is_given_wins_over_the_file(checkpoint):
    plain = described(checkpoint=checkpoint)
    assert list(plain) == [f"/{name}" for name in NODES]
    assert all(parameters == {"checkpoint": checkpoint} for _, parameters in plain.values())
    assert plain["/command_node"][0]["camera/image_raw"] == "camera/image_raw"
    assert "command/twist" not in plain["/command_node"][0]

    without = described(checkpoint=checkpoint, imagination="false")
    assert list(without) == [f"/{name}" for name in NODES[:-1]]
    given = described(
        checkpoint=checkpoint,
        namespace="left",
        camera="/wrist/image",
        joint_states="/all_joints",
        command_topic="/arm/cmd",
        command_interface="twist",
        compressed="true",
        autostart="false",
        use_sim_time="true",
    )
    assert list(given) == [f"/left/{name}" for name in NODES]
    for remaps, parameters in given.values():
        assert remaps == {
            "camera/image_raw": "/wrist/image",
            "camera/image_raw/compressed": "/wrist/image/compressed",
            "joint_states": "/all_joints",
            "command/twist": "/arm/cmd",
            "command/velocities": "/arm/cmd",
            "command/joint_trajectory": "/arm/cmd",
        }
        assert parameters["autostart"] is False
        assert parameters["use_sim_time"] is True
    assert given["/left/encoder_node"][1]["compressed"] is True
    assert given["/left/imagination_node"][1]["compressed"] is True
    assert given["/left/command_node"][1]["command.interface"] == "twist"
    assert "command.interface" not in given["/left/planner_node"][1]


@pytest.fixture
def robot_file(tmp_path):
    """Return a function that writes a robot file for ``arm_checkpoint``, with changes."""

    def write(**changes):
        actions = {"names": ["joint1", "joint2"], "kind": "joint_velocity", "unit": "rad/s"}
        values = {
            "period": 0.05,
            "block": 5,
            "cameras": {"front": {"topic": "/front/image", "rate": 30}},
            "joints": {"names": ["joint1", "joint2"], "topics": ["/arm/joint_states"]},
            "actions": actions | {"low": [-0.2, -0.2], "high": [0.2, 0.2]},
            "command": {"interface": "velocities", "topic": "/arm/velocities"},
        }
        path = tmp_path / "arm.yaml"
        path.write_text(yaml.safe_dump(values | changes))
        return str(path)

    return write


@needs_launch
def test_a_robot_file_gives_the_topics_and_arguments_win(arm_checkpoint, robot_file, tmp_path):
    robot = robot_file()
    for remaps, parameters in described(checkpoint=arm_checkpoint, robot=robot).values():
        assert remaps["camera/image_raw"] == "/front/image"
        assert remaps["joint_states"] == "/arm/joint_states"
        assert remaps["command/velocities"] == "/arm/velocities"
        assert parameters == {"checkpoint": arm_checkpoint, "robot": robot}
    differing = tmp_path / "differing.yaml"
    differing.write_text("/**/command_node:\n  ros__parameters:\n    lease: 0.5\n")
    given = described(checkpoint=arm_checkpoint, robot=robot, camera="/other", params_file=str(differing))
    assert all(remaps["camera/image_raw"] == "/other" for remaps, _ in given.values())
    from world_model_ros.errors import UserError

    joints = {"names": ["joint1", "joint2"], "topics": ["/arm/joint_states", "/joint_states"]}
    with pytest.raises(UserError, match="/joint_states is not the first of joints.topics"):
        described(checkpoint=arm_checkpoint, robot=robot_file(joints=joints))
    described(checkpoint=arm_checkpoint, robot=robot_file(joints=joints), namespace="left")
    with pytest.raises(UserError, match="block 5 in the checkpoint and 4 in "):
        described(checkpoint=arm_checkpoint, robot=robot_file(block=4))


@needs_launch
def test_a_simulation_that_is_given_a_word_for_a_number_names_the_argument(checkpoint):
    from launch import LaunchContext
    from world_model_ros.errors import UserError

    spec = importlib.util.spec_from_file_location("sim_launch", ROOT / "launch" / "sim.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = LaunchContext()
    context.launch_configurations.update(starter.DEFAULTS | {"goals": "abc", "checkpoint": "reach"})
    with pytest.raises(UserError, match="goals is 'abc': give a number"):
        module.check_arguments(context)


@needs_launch
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "checkpoint is missing: add checkpoint:="),
        ({"checkpoint": "/nowhere"}, "no checkpoint at '/nowhere'"),
        ({"checkpoint": "CHECKPOINT", "params_file": "/no.yaml"}, "there is no params_file /no.yaml"),
        ({"checkpoint": "CHECKPOINT", "params_file": "MISSPELT"}, "did you mean limits.max_step"),
        ({"checkpoint": "CHECKPOINT", "log_level": "loud"}, "log_level is 'loud': choose one of"),
        ({"checkpoint": "CHECKPOINT", "imagination": "no"}, "imagination is 'no': give true or false"),
    ],
)
def test_what_every_node_would_refuse_is_said_in_a_sentence(given, words, checkpoint, tmp_path):
    from world_model_ros.errors import UserError

    misspelt = tmp_path / "robot.yaml"
    misspelt.write_text("/**/command_node:\n  ros__parameters:\n    limits.maxstep: [0.1]\n")
    stand_ins = {"CHECKPOINT": checkpoint, "MISSPELT": str(misspelt)}
    given = {key: stand_ins.get(value, value) for key, value in given.items()}
    with pytest.raises(UserError, match=words):
        described(**given)


@pytest.fixture
def installed(tmp_path, processes):
    """Let launch find the executables of this package's own tree."""
    import sys

    prefix = tmp_path / "prefix"
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "world_model_ros"
    marker.parent.mkdir(parents=True)
    marker.touch()
    (prefix / "lib" / "world_model_ros").mkdir(parents=True)
    for name in NODES:
        path = prefix / "lib" / "world_model_ros" / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m world_model_ros.nodes {name} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    path = os.environ["AMENT_PREFIX_PATH"]
    processes.environment |= {"AMENT_PREFIX_PATH": f"{prefix}{os.pathsep}{path}"}
    return str(ROOT / "launch" / "robot.launch.py")


@pytest.mark.ros
@needs_launch
def test_a_node_that_dies_is_started_again_and_all_end_together(installed, processes, observer, checkpoint):
    file = str(ROOT / "config" / "robot_base.yaml")
    started = processes.start(
        *("-c", RUN, installed, f"checkpoint:={checkpoint}", f"params_file:={file}"),
        *("namespace:=left", "camera:=/wrist/image", "command_topic:=/base/cmd"),
    )

    def nodes():
        return {name for name, space in observer.node.get_node_names_and_namespaces() if space == "/left"}

    def pid(name):
        return next((p for p, line in processes.ours().items() if f"world_model_ros.nodes {name}" in line), 0)

    observer.until(lambda: nodes() == set(NODES))
    observer.until(lambda: observer.node.count_publishers("/base/cmd") == 1)
    observer.until(lambda: observer.node.count_subscribers("/wrist/image") == 1)
    for name in ("planner_node", "imagination_node"):
        first = pid(name)
        os.kill(first, signal.SIGKILL)
        observer.until(lambda: pid(name) not in (0, first))  # noqa: B023
        observer.until(lambda: name in nodes())  # noqa: B023
    started.send_signal(signal.SIGINT)
    observer.until(lambda: started.poll() is not None)
    assert processes.alive() == []


@pytest.mark.ros
@needs_launch
def test_a_node_that_refuses_to_start_ends_everything_and_says_why(
    installed, processes, observer, checkpoint
):
    started = processes.start("-c", RUN, installed, f"checkpoint:={checkpoint}")  # robot_arm.yaml's
    observer.until(lambda: started.poll() is not None)
    assert "command.interface 'joint_trajectory' cannot carry" in started.log.read_text()
    assert processes.alive() == []


@pytest.mark.ros
@pytest.mark.fault
@needs_launch
def test_a_viewer_that_refuses_to_start_ends_nothing_and_stays_away(
    installed, processes, observer, checkpoint, tmp_path
):
    file = tmp_path / "base.yaml"
    wrong = "/**/imagination_node:\n  ros__parameters:\n    steps: 100\n"
    file.write_text((ROOT / "config" / "robot_base.yaml").read_text() + wrong)
    started = processes.start("-c", RUN, installed, f"checkpoint:={checkpoint}", f"params_file:={file}")
    nodes = set(NODES[:-1])
    observer.until(lambda: nodes <= {name for name, _ in observer.node.get_node_names_and_namespaces()})
    observer.until(lambda: "steps out of range" in started.log.read_text())
    observer.repeat(lambda: None, 80)  # longer than a respawn takes
    assert started.log.read_text().count("steps out of range") == 1
    assert started.poll() is None

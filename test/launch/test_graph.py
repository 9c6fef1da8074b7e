"""Both ways of starting the simulation give the same graph."""

import contextlib
import importlib.util
import os
import re
from pathlib import Path

import pytest

from world_model_ros.errors import UserError
from world_model_ros.nodes import environment, starter

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = (
    "import sys; from world_model_ros.nodes import environment, starter; environment.prepare(local=True);"
    "values = dict(word.split('=') for word in sys.argv[1:]);"
    "raise SystemExit(starter.start_processes(starter.commands(values)))"
)


def values(checkpoint):
    return {
        "goals": "0",
        "task": "reach",
        "gui": "false",
        "seed": "1",
        "real_time_factor": "1.0",
        "camera_rate": "0.0",
        "camera_jitter": "0.0",
        "imagination": "true",
        "view": "false",
        "view_port": "8090",
        "view_host": "localhost",
        "checkpoint": checkpoint,
    }


def test_the_starter_starts_every_node_of_the_launch_file_with_its_parameters():
    text = (ROOT / "launch" / "sim.launch.py").read_text()
    started = (*starter.NODES, starter.VIEWER, "view_node")
    assert tuple(re.findall(r'^ +node\("(\w+)"', text, re.M)) == started
    assert set(starter.DEFAULTS) | {"checkpoint"} == set(values(""))
    lines = starter.commands(values("/somewhere"))
    assert list(lines) == [*starter.NODES, starter.VIEWER]
    assert list(starter.commands(values("/x") | {"imagination": "false"})) == list(starter.NODES)
    assert "goals:=0" in lines["sim_node"]
    assert not any("imagination" in word for word in lines["sim_node"])
    assert all("checkpoint:='/somewhere'" in lines[name] for name in starter.NODES[1:])
    assert "checkpoint:='/o''brien'" in starter.commands(values("/o'brien"))["planner_node"]
    assert all("--params-file" in line for line in lines.values())


def test_the_page_is_started_where_it_is_asked_for():
    page = {"view_host": "robot's", "view_port": "8091"}
    assert "view_node" not in starter.commands(values("/somewhere") | page | {"view": "false"})
    line = starter.commands(values("/somewhere") | page | {"view": "true"})["view_node"]
    assert {"host:='robot''s'", "port:=8091"} <= set(line)


def test_an_option_of_the_page_without_the_page_is_refused():
    for name, value in (("view_host", "0.0.0.0"), ("view_port", "0")):
        with pytest.raises(UserError, match=f"{name} is of the page, which is not asked for: add --view"):
            starter.check(values("reach") | {"view": "false", name: value})


@pytest.mark.parametrize("name", starter.OPTIONAL)
def test_a_viewer_that_ends_leaves_the_simulation_running(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(starter.signal, "signal", lambda *_: None)
    ended = tmp_path / "ended"
    # The simulation ends when it knows that the viewer has ended and was noticed.
    wait = f"import time, pathlib\nwhile not pathlib.Path({str(ended)!r}).exists(): time.sleep(0.02)"
    monkeypatch.setattr(starter, "print", lambda *words, **_: (ended.touch(), print(*words)), raising=False)
    lines = {
        name: [starter.sys.executable, "-c", "raise SystemExit(3)"],
        "sim_node": [starter.sys.executable, "-c", wait],
    }
    assert starter.start_processes(lines) == 0
    assert f"{name} ended with exit code 3: the simulation goes on." in capsys.readouterr().out


def test_launch_words_and_options_mean_the_same():
    import argparse

    parser = argparse.ArgumentParser()
    starter.add_arguments(parser)
    options = ["--goals", "5", "--gui", "--seed", "2", "--real-time-factor", "0"]
    options += ["--camera-rate", "15", "--camera-jitter", "0.01", "--no-imagination"]
    words = ["goals:=5", "gui:=true", "seed:=2", "real_time_factor:=0.0", "task:=reach"]
    words += ["camera_rate:=15.0", "camera_jitter:=0.01", "imagination:=false"]
    assert starter.launch_values(parser.parse_args(options)) == starter.launch_values(
        parser.parse_args(words)
    )


def test_the_environment_keeps_what_the_user_has_set(monkeypatch):
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/mine.xml")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    environment.prepare(local=True)
    assert os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] == "/mine.xml"
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE")
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    environment.prepare()
    profile = Path(os.environ["FASTDDS_DEFAULT_PROFILES_FILE"])
    assert "16777216" in profile.read_text()


OTHERS = ("ROS_STATIC_PEERS", "ROS_LOCALHOST_ONLY", "RMW_IMPLEMENTATION")


@pytest.mark.parametrize("copied", [True, False])
def test_the_profile_is_known_through_a_link_and_as_a_copy(monkeypatch, tmp_path, copied):
    profile, other = environment.share() / "config" / "fastdds.xml", tmp_path / "fastdds.xml"
    if copied:
        other.write_bytes(profile.read_bytes())
    else:
        other.symlink_to(profile)
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(other))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    for name in OTHERS:
        monkeypatch.setenv(name, "")
    environment.prepare(node="monitor_node")
    assert Path(os.environ["FASTDDS_DEFAULT_PROFILES_FILE"]).name == "fastdds_udp.xml"


@pytest.mark.parametrize(
    ("variables", "profile", "reach"),
    [
        ({}, "fastdds_udp.xml", None),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, "fastdds_udp.xml", "SUBNET"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, "fastdds_udp_localhost.xml", "SYSTEM_DEFAULT"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, "fastdds.xml", "OFF"),
        (
            {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_STATIC_PEERS": "10.0.0.2"},
            "fastdds.xml",
            "LOCALHOST",
        ),
        ({"ROS_LOCALHOST_ONLY": "1"}, "fastdds.xml", None),
        ({"RMW_IMPLEMENTATION": ""}, "fastdds_udp.xml", None),
        (
            {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"},
            "fastdds.xml",
            "LOCALHOST",
        ),
        ({"FASTDDS_DEFAULT_PROFILES_FILE": "/my/own.xml"}, "own.xml", None),
    ],
)
def test_nodes_that_a_robot_waits_for_receive_without_shared_memory(monkeypatch, variables, profile, reach):
    for name in (*environment.PROFILES, "ROS_AUTOMATIC_DISCOVERY_RANGE", *OTHERS):
        monkeypatch.setenv(name, "")  # so that it is undone where there was none
        monkeypatch.delenv(name)
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    environment.prepare(node="encoder_node")
    shared = variables.get("FASTDDS_DEFAULT_PROFILES_FILE", "fastdds.xml")
    assert Path(os.environ["FASTDDS_DEFAULT_PROFILES_FILE"]).name == Path(shared).name
    environment.prepare(node="command_node")
    used = Path(os.environ["FASTDDS_DEFAULT_PROFILES_FILE"])
    assert used.name == profile
    assert used.is_file() or profile == "own.xml"
    assert os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == reach


@pytest.mark.parametrize(
    ("distribution", "library", "variable"),
    [
        ("humble", None, "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("jazzy", None, "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("kilted", "libfastrtps.so", "FASTDDS_DEFAULT_PROFILES_FILE"),
        (
            "",
            "libfastrtps.so",
            "FASTRTPS_DEFAULT_PROFILES_FILE",
        ),  # wheels: no ROS_DISTRO is set
        ("", "libfastdds.so", "FASTDDS_DEFAULT_PROFILES_FILE"),
    ],
)
def test_fast_dds_is_given_its_profile_by_the_variable_that_it_reads(
    monkeypatch, tmp_path, distribution, library, variable
):
    (tmp_path / "lib").mkdir()
    if library:
        (tmp_path / "lib" / library).touch()
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setenv("AMENT_PREFIX_PATH", "")
    monkeypatch.setenv("ROS_DISTRO", distribution)
    for name in environment.PROFILES:
        monkeypatch.delenv(name, raising=False)
    assert set(environment.fast_dds_profile()) == {variable} == {environment.profile_variable()}


@pytest.mark.ros
@pytest.mark.skipif(not importlib.util.find_spec("launch_ros"), reason="launch_ros is not installed here")
def test_both_ways_give_the_same_graph(processes, observer, checkpoint):
    from rclpy.node import NodeNameNonExistentError
    from trajectory_msgs.msg import JointTrajectory

    every = (*starter.NODES, starter.VIEWER)

    def graph():
        node = observer.node
        graph = {}
        for name in {n for n, _ in node.get_node_names_and_namespaces()} & set(every):
            with contextlib.suppress(NodeNameNonExistentError):  # it has just ended
                graph[name] = (
                    sorted(node.get_publisher_names_and_types_by_node(name, "/")),
                    sorted(node.get_subscriber_names_and_types_by_node(name, "/")),
                    sorted(node.get_service_names_and_types_by_node(name, "/")),
                )
        return graph

    def complete():
        """Return the graph once it has been the same for two seconds: discovery takes its time."""
        seen = [{}]
        while set(seen[-1]) != set(every) or seen[-1] != seen[-2]:
            observer.repeat(lambda: None, 20)
            seen.append(graph())
        return seen[-1]

    processes.server = None  # as a user starts them
    plans = observer.collect(JointTrajectory, "plan")
    graphs = []
    words = [f"{name}={value}" for name, value in values(checkpoint).items()]
    for line in (
        ("-m", "world_model_ros", "sim", "--checkpoint", checkpoint, "--seed", "1"),
        ("-c", WITHOUT, *words),
    ):
        plans.clear()
        started = processes.start(*line)
        observer.until(lambda: len(plans) > 2)
        graphs.append(complete())
        started.terminate()
        observer.until(lambda: processes.started[-1].poll() is not None)
        observer.until(lambda: graph() == {})
    assert "process started with pid" in processes.started[0].log.read_text()
    assert graphs[0] == graphs[1]

"""The verbs deploy and call: a robot's nodes and their services without the command ros2."""

import os
import signal
import sys
from pathlib import Path

import pytest

from world_model_ros.cli import main, verb_parser
from world_model_ros.errors import UserError
from world_model_ros.nodes import deploy

ROOT = Path(__file__).resolve().parents[2]
NODES = (*deploy.NODES, deploy.VIEWER)
CELL = ROOT / "test" / "foreign" / "cell2.yaml"


def given(**values):
    return {name: default for name, default, _, _ in deploy.ARGUMENTS} | values


def test_what_is_given_becomes_remappings_and_parameters_that_win(checkpoint):
    plain = deploy.deployment(given(checkpoint=checkpoint))
    assert plain.nodes == NODES
    assert plain.files == (str(ROOT / "config" / "robot_arm.yaml"),)
    assert all(plain.parameters(name) == {"checkpoint": (checkpoint, str)} for name in NODES)
    line = plain.command_line("planner_node")
    assert line[1:4] == ["-m", "world_model_ros.nodes", "planner_node"]
    assert line[-4:] == ["--params-file", plain.files[0], "-p", f"checkpoint:='{checkpoint}'"]
    assert "__ns" not in " ".join(line)
    all_of_it = deploy.deployment(
        given(
            checkpoint=checkpoint,
            namespace="/left/",
            camera="/wrist/image",
            joint_states="/all_joints",
            command_topic="/arm/cmd",
            command_interface="twist",
            compressed="true",
            autostart="false",
            use_sim_time="true",
            imagination="false",
            log_level="debug",
        )
    )
    assert all_of_it.nodes == NODES[:-1]
    for name in all_of_it.nodes:
        line = " ".join(all_of_it.command_line(name))
        for word in (
            *("--log-level debug", f"-r __node:={name}", "-r __ns:=/left"),
            *("-r camera/image_raw:=/wrist/image", "-r camera/image_raw/compressed:=/wrist/image/compressed"),
            *(
                "-r joint_states:=/all_joints",
                "-r command/twist:=/arm/cmd",
                "-r command/velocities:=/arm/cmd",
            ),
            *("-p autostart:=false", "-p use_sim_time:=true"),
        ):
            assert word in line, word
        assert ("-p command.interface:='twist'" in line) == (name == "command_node")
        assert ("-p compressed:=true" in line) == (name == "encoder_node")


def test_the_options_are_the_arguments_of_the_launch_file():
    parser = verb_parser("deploy")
    options = {name for action in parser._actions for name in action.option_strings}
    assert {f"--{name.replace('_', '-')}" for name, *_ in deploy.ARGUMENTS} <= options
    arguments = parser.parse_args(["--checkpoint", "reach"])
    for name, default, kind, _ in deploy.ARGUMENTS:
        if name != "checkpoint":
            value = {"true": True, "false": False}.get(default) if kind is bool else default or None
            assert getattr(arguments, name) == value


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--checkpoint", "/nowhere"], "no checkpoint at '/nowhere'"),
        (["--checkpoint", "reach", "--camera", "/my camera"], "--camera is '/my camera': give a name"),
        (["--checkpoint", "reach", "--view-port", "80"], "view_port is of the page, which is not asked for"),
        (["--checkpoint", "reach", "--log-level", "loud"], "log_level is 'loud': choose one of"),
        (["--checkpoint", "reach", "--robot", str(CELL)], "was not made for the robot of"),
    ],
)
def test_what_every_node_would_refuse_is_said_before_anything_starts(words, told, capsys):
    assert main(["deploy", *words]) == 2
    assert told in capsys.readouterr().err


def test_the_launch_words_are_refused_with_their_own_names(checkpoint):
    with pytest.raises(UserError, match="checkpoint is missing: add checkpoint:="):
        deploy.deployment(given())


@pytest.fixture
def run_lines(monkeypatch, tmp_path):
    """Return a function that supervises Python programs and ends with a signal once a file is there."""
    handlers = {}
    monkeypatch.setattr(deploy.signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(deploy, "RESPAWN", 0.1)

    def run(**programs):
        lines = {name: [sys.executable, "-c", program] for name, program in programs.items()}
        spawn = deploy.starter.spawn
        started = []

        def spawning(line):
            started.append(next(name for name, other in lines.items() if other is line))
            if started.count("monitor_node") == 3:  # and so ended twice
                handlers[signal.SIGTERM](signal.SIGTERM, None)
            return spawn(line)

        monkeypatch.setattr(deploy.starter, "spawn", spawning)
        return deploy.supervise(lines), started

    return run


STAYS = "import signal; signal.pause()"


def test_a_node_that_ends_is_started_again_and_a_viewer_that_refuses_stays_away(run_lines, capsys):
    code, started = run_lines(
        command_node=STAYS, imagination_node="raise SystemExit(2)", monitor_node="raise SystemExit(7)"
    )
    assert code == 0
    assert [started.count(name) for name in ("command_node", "imagination_node", "monitor_node")] == [1, 1, 3]
    assert "monitor_node ended with exit code 7: it is started again." in capsys.readouterr().err


def test_a_node_that_refuses_to_start_ends_everything(run_lines, capsys):
    code, started = run_lines(command_node=STAYS, encoder_node="raise SystemExit(2)")
    assert (code, started) == (2, ["command_node", "encoder_node"])
    assert "encoder_node refused to start, see its error above" in capsys.readouterr().err


@pytest.mark.ros
def test_the_nodes_start_as_given_come_back_answer_calls_and_end_together(processes, observer, checkpoint):
    file = str(ROOT / "config" / "robot_base.yaml")
    started = processes.start(
        *("-m", "world_model_ros", "deploy", "--checkpoint", checkpoint, "--params-file", file),
        *("--namespace", "left", "--camera", "/wrist/image", "--command-topic", "/base/cmd"),
    )

    def nodes():
        return {name for name, space in observer.node.get_node_names_and_namespaces() if space == "/left"}

    def pid(name):
        return next((p for p, line in processes.ours().items() if f"world_model_ros.nodes {name}" in line), 0)

    def call(*words):
        process = processes.start("-m", "world_model_ros", "call", "--namespace", "left", *words)
        observer.until(lambda: process.poll() is not None)
        return process.returncode, process.log.read_text().strip()

    observer.until(lambda: nodes() >= set(NODES))
    observer.until(lambda: observer.node.count_publishers("/base/cmd") == 1)
    observer.until(lambda: observer.node.count_subscribers("/wrist/image") == 1)
    observer.until(lambda: started.log.read_text().count("planner ready") == 1)
    first = pid("planner_node")
    os.kill(first, signal.SIGKILL)
    observer.until(lambda: pid("planner_node") not in (0, first))
    # The graph may still have the one that was killed, so the log tells when there is a new one.
    observer.until(lambda: started.log.read_text().count("planner ready") == 2)
    assert "planner_node ended with exit code -9: it is started again." in started.log.read_text()

    waiting = "enabled: waiting for a goal on goal/image, or planner/goal_from_camera"
    assert call("planner/enable", "true") == (0, waiting)
    assert call("command/emergency_stop") == (0, "stopped until command/reset")
    assert call("command/reset")[0] == 0
    assert call("planner/goal_from_camera") == (1, "no latent yet: is encoder_node running?")
    assert call("planner/enable") == (2, "error: /left/planner/enable takes a value: add true or false.")
    code, text = call("command/reset", "true")
    assert (code, text) == (2, "error: /left/command/reset takes no value: leave true out.")
    code, text = call("command/rest")
    assert code == 2
    assert text.startswith("error: nobody offers /left/command/rest: start its node, or give its --namespace")
    assert "/left/command/reset" in text

    started.send_signal(signal.SIGINT)
    observer.until(lambda: started.poll() is not None)
    assert started.returncode == 130
    assert processes.alive() == []


@pytest.mark.ros
def test_nodes_that_contradict_the_checkpoint_end_with_the_reason(processes, observer, checkpoint):
    started = processes.start(
        "-m", "world_model_ros", "deploy", "--checkpoint", checkpoint
    )  # robot_arm.yaml's
    observer.until(lambda: started.poll() is not None)
    assert started.returncode == 2
    assert "command.interface 'joint_trajectory' cannot carry" in started.log.read_text()
    assert processes.alive() == []

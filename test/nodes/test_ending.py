"""Ctrl-C at any moment, and what is refused at the start."""

import signal
import threading

import pytest

from world_model_ros.nodes.environment import WITHOUT_SHARED_MEMORY

pytestmark = pytest.mark.ros


def python_begins(sim):
    """Return whether Ctrl-C came before Python had begun with the package, on a busy machine."""
    log = sim.log.read_text()
    own = "Failed to import the site module" in log or "Traceback" in log or not log
    return own and sim.returncode in (1, -signal.SIGINT) and "/world_model_ros/" not in log


# Seconds after the start: while importing, starting the nodes, loading the model, running.
@pytest.mark.parametrize("moment", [0.2, 0.5, 1.1, 2.7, 6.3])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_everything_is_gone_within_three_seconds(processes, checkpoint, moment, number):
    sim = None
    while sim is None or python_begins(sim):
        sim = processes.sim("--checkpoint", checkpoint)
        threading.Event().wait(moment)
        sim.send_signal(number)
        processes.ends_within(sim, 3.0)
        moment += 0.1
    log = sim.log.read_text()
    assert sim.returncode in ((0, 130) if number == signal.SIGINT else (0, -signal.SIGTERM)), log
    assert "Traceback" not in log
    assert processes.alive() == []


@pytest.mark.parametrize("node", ["sim_node", "encoder_node", "planner_node", "command_node", "monitor_node"])
def test_a_node_in_full_swing_ends_with_exit_code_zero(processes, observer, checkpoint, node):
    from trajectory_msgs.msg import JointTrajectory

    plans = observer.collect(JointTrajectory, "plan")
    processes.use_shared_memory()
    started = {"sim_node": processes.node("sim_node")} | {
        name: processes.node(name, checkpoint=checkpoint)
        for name in ("encoder_node", "planner_node", "command_node", "monitor_node")
    }
    observer.until(lambda: len(plans) > 2)
    held = processes.shared_memory(started[node])
    started[node].send_signal(signal.SIGINT)
    processes.ends_within(started[node], 2.0, observer.spin)
    log = started[node].log.read_text()
    assert started[node].returncode == 0, log
    assert "Traceback" not in log
    # 17 MB each, which would stay until the machine starts anew
    assert bool(held) == (node not in WITHOUT_SHARED_MEMORY)
    assert not any(segment.exists() for segment in held)


def test_all_end_when_one_is_killed(processes, observer, checkpoint):
    from trajectory_msgs.msg import JointTrajectory

    plans = observer.collect(JointTrajectory, "plan")
    sim = processes.sim("--checkpoint", checkpoint)
    observer.until(lambda: plans)
    (line,) = [words for words in processes.alive() if "encoder_node" in words]
    assert "checkpoint" in line
    processes.kill("encoder_node")
    processes.ends_within(sim, 4.0)
    assert sim.returncode != 0
    assert "encoder_node" in sim.log.read_text()
    assert processes.alive() == []


def refused(process, *expected):
    process.wait(timeout=60)
    log = process.log.read_text()
    assert process.returncode == 2, log
    assert "Traceback" not in log
    assert all(word in log for word in expected), log


@pytest.mark.parametrize(
    "node", ["encoder_node", "planner_node", "command_node", "monitor_node", "imagination_node"]
)
def test_a_missing_checkpoint_is_one_sentence_and_exit_code_two(processes, node):
    refused(processes.node(node, checkpoint="/nowhere/at/all"), "/nowhere/at/all", "give")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--checkpoint", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--checkpoint", "nobody"], "nobody"),
        (["--task", "juggle"], "push, reach"),
        (["goals:=many"], "goals"),
        (["speed:=3"], "speed"),
    ],
)
def test_the_starter_refuses_before_it_starts_anything(processes, options, expected):
    sim = processes.sim(*options)
    refused(sim, expected)
    assert len(sim.log.read_text().strip().splitlines()) == 1


def test_a_broken_checkpoint_names_the_file(processes, checkpoint, tmp_path):
    import shutil

    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not weights")
    refused(processes.node("planner_node", checkpoint=broken), "model.safetensors")


def test_an_interface_that_cannot_carry_the_actions_is_refused_with_both_sides(processes, checkpoint):
    words = ("command_node", "--ros-args", "-p", f"checkpoint:={checkpoint}", "-p")
    node = processes.start("-m", "world_model_ros.nodes", *words, "command.interface:=velocities")
    refused(node, "velocities", "twist")


def test_a_parameter_out_of_range_is_refused(processes, checkpoint):
    refused(processes.node("planner_node", checkpoint=checkpoint, samples=-1), "samples")


def test_an_unknown_task_is_refused_by_the_node(processes):
    refused(processes.node("sim_node", task="juggle"), "juggle", "reach")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_is_interrupted_while_it_loads_ends_quietly_with_zero(processes, number):
    code = f"import os, world_model_ros.nodes.__main__; os.kill(os.getpid(), {int(number)}); os.abort()"
    process = processes.start("-c", code)
    processes.ends_within(process, 10.0)
    assert process.returncode == 0
    assert process.log.read_text() == ""

import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from world_model_ros import cli
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.model.frames import resize_frame
from world_model_ros.sim import collect
from world_model_ros.sim.tasks import make_world
from world_model_ros.training.card import collect_command

COMMAND = [sys.executable, "-m", "world_model_ros", "collect", "--length", "3", "--size", "16"]


def gather(path, *options):
    return cli.main(["collect", "--length", "3", "--size", "16", "--out", str(path), *options])


def contents(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file}, dict(file.attrs)


def assert_same(path, other):
    (mine, notes), (theirs, their_notes) = contents(path), contents(other)
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)
    assert {k: str(v) for k, v in notes.items()} == {k: str(v) for k, v in their_notes.items()}


def stored(path):
    return len(list(path.with_name(path.name + ".parts").glob("episode-*.h5")))


def until(condition, process=None, limit=60):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        assert process is None or process.poll() is None, "the process ended early"
        os.sched_yield()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Twelve push episodes recorded by one worker."""
    path = tmp_path_factory.mktemp("alone") / "push.h5"
    assert gather(path, "--task", "push", "--episodes", "12", "--workers", "1") == 0
    return path


def test_the_file_is_the_same_for_any_number_of_workers(alone, tmp_path, capsys):
    path = tmp_path / "push.h5"
    assert gather(path, "--task", "push", "--episodes", "5", "--workers", "2") == 0
    assert gather(path, "--task", "push", "--episodes", "12", "--workers", "2") == 0
    assert_same(path, alone)
    assert f"{path}: 12 episodes, 36 frames" in capsys.readouterr().out


def test_what_is_stored_replays_in_the_world(alone):
    with EpisodeFile(alone) as file:
        assert len(file) == 12
        assert set(file.lengths) == {3}
        assert file.attributes["steps_per_row"] == 5
        assert file.attributes["action_frame"] == "panda_link0"
        states, actions, pixels = file.states(7), file.actions(7), file.pixels(7)
    assert actions.shape == (3, 10)
    assert np.all(np.isnan(actions[-1]))
    world = make_world("push")
    world.reset((0, 7))
    for row in range(3):
        np.testing.assert_allclose(world.state(), states[row], atol=1e-6)
        assert np.abs(resize_frame(world.render(), 16).astype(int) - pixels[row]).mean() < 0.1
        if row < 2:
            for action in actions[row].reshape(5, 2):
                world.step(action)


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(alone, tmp_path):
    path = tmp_path / "push.h5"
    options = ["--task", "push", "--workers", "2", "--out", str(path)]
    process = subprocess.Popen([*COMMAND, *options, "--episodes", "3000"], stderr=subprocess.PIPE, text=True)
    until(lambda: stored(path) >= 3, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert 3 <= stored(path) < 3000
    for part in path.with_name("push.h5.parts").glob("episode-*.h5"):
        if int(part.stem.split("-")[1]) >= 12:
            part.unlink()
    assert gather(path, "--task", "push", "--episodes", "12", "--workers", "2") == 0
    assert_same(path, alone)


def children(process):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True)
    return [int(word) for word in listed.stdout.split()]


def gone(process):
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_killed_collection_leaves_no_workers_and_resumes(alone, tmp_path):
    path = tmp_path / "push.h5"
    options = ["--task", "push", "--workers", "2", "--out", str(path)]
    process = subprocess.Popen([*COMMAND, *options, "--episodes", "12000"], stderr=subprocess.DEVNULL)
    until(lambda: stored(path) >= 2, process)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.wait()
    until(lambda: all(gone(worker) for worker in workers))
    for part in path.with_name("push.h5.parts").glob("episode-*.h5"):
        if int(part.stem.split("-")[1]) >= 12:
            part.unlink()
    assert gather(path, "--task", "push", "--episodes", "12", "--workers", "1") == 0
    assert_same(path, alone)


def test_a_dead_worker_is_an_error_and_not_a_wait(tmp_path):
    path = tmp_path / "push.h5"
    options = ["--task", "push", "--workers", "2", "--out", str(path)]
    process = subprocess.Popen([*COMMAND, *options, "--episodes", "12000"], stderr=subprocess.PIPE, text=True)
    until(lambda: stored(path) >= 2, process)
    victim = next(c for c in children(process.pid) if "spawn_main" in command_of(c))
    os.kill(victim, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "a worker process died" in errors
    assert "Traceback" not in errors
    assert stored(path) >= 2


def command_of(process):
    with open(f"/proc/{process}/cmdline") as file:
        return file.read()


@pytest.mark.parametrize(
    "options",
    [("--episodes", "0"), ("--workers", "0"), ("--length", "1"), ("--seed", "-1"), ("--size", "2")],
)
def test_impossible_options_are_refused_with_a_remedy(tmp_path, capsys, options):
    assert gather(tmp_path / "a.h5", "--task", "reach", *options) == 2
    assert options[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_or_other_settings_are_refused(alone, tmp_path, capsys):
    assert gather(tmp_path, "--task", "push") == 2
    assert "folder" in capsys.readouterr().err
    assert gather(alone, "--task", "push", "--seed", "1", "--episodes", "20") == 2
    assert "seed" in capsys.readouterr().err


def test_an_episode_does_not_depend_on_the_one_before():
    recipe = collect.Recipe("push", 0, 4, 16)
    world = make_world("push")
    first = collect.record(world, recipe, 3)
    collect.record(world, recipe, 1)
    for before, after in zip(first, collect.record(world, recipe, 3), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_planner_collects_too_whatever_the_number_of_workers(tmp_path, checkpoint, capsys):
    words = ["--task", "reach", "--policy", "planner", "--checkpoint", checkpoint, "--episodes", "3"]
    paths = [tmp_path / f"{workers}.h5" for workers in "12"]
    for path in paths:
        assert gather(path, *words, "--workers", path.stem) == 0
    assert_same(*paths)
    with EpisodeFile(paths[0]) as file:
        assert file.attributes["source"] == "pybullet, planner with random"
        assert collect_command(file)[0].endswith("--policy planner --checkpoint random")
        actions = [file.actions(episode)[:-1].reshape(-1, 2) for episode in range(3)]
    assert all(np.abs(block).max() <= 0.4 and np.ptp(block) > 0 for block in actions)
    assert gather(paths[0], "--task", "reach", "--episodes", "4") == 2  # an explorer's would be mixed in
    assert "made with other settings" in capsys.readouterr().err


def test_a_checkpoint_is_for_the_planner(tmp_path, capsys):
    assert gather(tmp_path / "x.h5", "--task", "reach", "--checkpoint", "reach") == 2
    assert "--checkpoint is for --policy planner" in capsys.readouterr().err

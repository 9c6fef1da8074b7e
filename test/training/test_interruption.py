"""Trainings that end early, go on, or are refused to."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from world_model_ros.cli import main
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import ModelConfig
from world_model_ros.training import train
from world_model_ros.training.loop import (
    TrainingInterruptedError,
    TrainingRun,
    TrainingSettings,
)
from world_model_ros.training.state import read_state, recorded_settings


class StopAtError(Exception):
    pass


def interrupt_at(monkeypatch, step, error):
    """Raise ``error`` in the middle of step ``step``, after those before it."""
    original = TrainingRun._train_step

    def step_or_stop(self, *arguments):
        if self.step == step:
            raise error
        return original(self, *arguments)

    monkeypatch.setattr(TrainingRun, "_train_step", step_or_stop)
    return original


@pytest.mark.parametrize("motion", [0.0, 0.1])
def test_killed_and_resumed_equals_uninterrupted(data, tmp_path, tiny, monkeypatch, motion, command, lines):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = {"steps": 45, "motion": motion}
    assert main(command(data, whole, **options)) == 0
    # a state is saved after every step; the process dies in step 25, after step 20's metrics line
    monkeypatch.setattr("world_model_ros.training.loop._SAVE_SECONDS", -1.0)
    original = interrupt_at(monkeypatch, 25, StopAtError())
    with pytest.raises(StopAtError):
        main(command(data, broken, **options))
    assert not (broken / "out").exists()
    with (broken / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 26, "prediction": 0}\n{"step": 2')  # written, but its state was not saved
    monkeypatch.setattr(TrainingRun, "_train_step", original)
    assert main(command(data, broken, **options)) == 0
    a, b = (load_checkpoint(folder / "out")[0].state_dict() for folder in (whole, broken))
    assert all(torch.equal(a[name], b[name]) for name in a)
    steps = [line["step"] for line in lines(broken)]
    assert steps == [line["step"] for line in lines(whole)]


def test_an_early_end_gives_a_checkpoint_and_leaves_no_trace_in_what_goes_on(
    data, tmp_path, tiny, monkeypatch, capsys, command, lines
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = {"temporal-steps": 0, "inverse-steps": 0}
    assert main(command(data, whole, steps=45, **options)) == 0

    def stopping(self, clips, image, stop):
        if self.step == 24:
            stop.set()
        return original(self, clips, image, stop)

    original = TrainingRun._train_step
    monkeypatch.setattr(TrainingRun, "_train_step", stopping)
    assert main(command(data, broken, steps=45, **options)) == 130
    assert "with --steps 25 it makes a checkpoint" in capsys.readouterr().err
    assert main(command(data, broken, steps=24, **options)) == 2
    assert "has 25 steps done: give --steps 25 or more" in capsys.readouterr().err
    assert main(command(data, broken, steps=25, **options)) == 0
    early = load_checkpoint(broken / "out")[1].training
    assert (early["steps"], early["schedule"]) == (25, [[0, 45], [25, 25]])
    assert recorded_settings(broken / "run")["steps"] == 25
    assert main(command(data, broken, steps=45, **options)) == 0
    a, b = (load_checkpoint(folder / "out") for folder in (whole, broken))
    for name, value in a[0].state_dict().items():
        torch.testing.assert_close(b[0].state_dict()[name], value, rtol=0, atol=1e-6)
    assert "schedule" not in b[1].training
    assert [line["step"] for line in lines(broken)] == [line["step"] for line in lines(whole)]


def test_more_steps_go_on_and_the_checkpoint_says_so(data, tmp_path, tiny, capsys, command, lines):
    assert main(command(data, tmp_path, steps=20)) == 0
    assert main(command(data, tmp_path, steps=40)) == 0
    assert "going on at step 20 of 40" in capsys.readouterr().err
    training = load_checkpoint(tmp_path / "out")[1].training
    assert (training["steps"], training["schedule"]) == (40, [[0, 20], [20, 40]])
    assert (
        "Steps 1 to 20 were taken with the learning rate of 20 steps"
        in (tmp_path / "out/card.md").read_text()
    )
    rates = [line["lr"] for line in lines(tmp_path) if "lr" in line]
    assert rates[1] < 1e-4
    assert len(rates) == 2


def test_a_finished_run_says_so(data, tmp_path, tiny, capsys, command):
    assert main(command(data, tmp_path)) == 0
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert main(command(data, tmp_path)) == 0
    assert "all 12 steps done" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before


def test_a_finished_run_writes_a_lost_checkpoint_again(data, tmp_path, tiny, command):
    assert main(command(data, tmp_path)) == 0
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    assert main(command(data, tmp_path)) == 0
    load_checkpoint(tmp_path / "out")


def test_other_settings_are_refused_until_restart(data, tmp_path, tiny, capsys, command):
    assert main(command(data, tmp_path)) == 0
    assert main(command(data, tmp_path, lr=0.1)) == 2
    error = capsys.readouterr().err
    assert "settings.lr 0.001 there, 0.1 now" in error
    assert "--restart" in error
    assert main(command(data, tmp_path, lr=0.01, restart=True)) == 0
    assert load_checkpoint(tmp_path / "out")[1].training["lr"] == 0.01


def test_a_damaged_state_is_refused(data, tmp_path, tiny, capsys, command):
    assert main(command(data, tmp_path)) == 0
    state = tmp_path / "run" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    assert main(command(data, tmp_path)) == 2
    assert str(state) in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_stops(data, tmp_path, tiny, monkeypatch, number, capsys, command):
    original = TrainingRun._train_step

    def step_and_signal(self, *arguments):
        if self.step == 5:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    monkeypatch.setattr(TrainingRun, "_train_step", step_and_signal)
    before = signal.getsignal(number)
    assert main(command(data, tmp_path)) == 130
    assert signal.getsignal(number) == before
    assert "the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 6
    monkeypatch.setattr(TrainingRun, "_train_step", original)
    assert main(command(data, tmp_path)) == 0


def test_ctrl_c_on_a_real_process(data, tmp_path, command):
    words = [sys.executable, "-m", "world_model_ros", *command(data, tmp_path, steps=100_000, batch=4)]
    environment = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[2])}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = threading.Event()
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None
        deadline.wait(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert (tmp_path / "run" / "state.pt").exists()


def test_a_run_stops_only_by_its_own_error(tmp_path, tiny):
    run = TrainingRun(tmp_path, tiny(4), TrainingSettings(batch=8))
    assert not run.finished
    run.save()
    with pytest.raises(UserError, match=r"settings\.batch 8 there, 9 now"):
        TrainingRun(tmp_path, tiny(4), TrainingSettings(batch=9))
    assert not issubclass(TrainingInterruptedError, UserError)


def counting(monkeypatch):
    """Return the list that every trained step goes into."""
    steps, original = [], TrainingRun._train_step

    def step(self, *arguments):
        steps.append(self.step)
        return original(self, *arguments)

    monkeypatch.setattr(TrainingRun, "_train_step", step)
    return steps


@pytest.mark.parametrize("kind", ["file", "folder", "under a file", "nowhere"])
def test_a_place_that_cannot_be_written_is_refused_before_the_training(
    data, tmp_path, tiny, capsys, monkeypatch, kind
):
    steps = counting(monkeypatch)
    out = {"nowhere": Path("/proc/world_model_ros/out")}.get(kind, tmp_path / "out")
    if kind == "file":
        out.write_text("mine")
    elif kind == "folder":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    elif kind == "under a file":
        out.write_text("mine")
        out = out / "models" / "a"
    before = sorted(tmp_path.rglob("*"))
    words = ["--data", str(data), "--run", str(tmp_path / "run"), "--steps", "3", "--batch", "8"]
    assert main(["train", *words, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"--out {out}" in error
    assert "choose another place" in error
    assert steps == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_folder_that_cannot_be_made_is_one_sentence(data, tmp_path, tiny, capsys, command):
    words = command(data, tmp_path, steps=2)
    words[words.index("--run") + 1] = "/proc/world_model_ros/run"
    assert main(words) == 2
    assert "--run /proc/world_model_ros/run cannot be made" in capsys.readouterr().err


def test_another_out_takes_the_training_that_is_there(data, tmp_path, tiny, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    words = [word for word in command(data, tmp_path, steps=6) if word != "--run"]
    words.remove(str(tmp_path / "run"))
    first, second = Path("models/first"), Path("models/second")

    def train(out, *more):
        place = words.index("--out") + 1
        return main([*words[:place], str(out), *words[place + 1 :], *more])

    assert train(first) == 0
    steps = counting(monkeypatch)
    assert train(second) == 0
    assert steps == []
    assert "runs/first holds the state of this training" in capsys.readouterr().err
    assert not Path("runs/second").exists()
    a, b = (load_checkpoint(folder)[0].state_dict() for folder in (first, second))
    assert all(torch.equal(a[name], b[name]) for name in a)
    # another training, or one that is to begin again, has a folder of its own
    assert train(Path("models/third"), "--seed", "1") == 0
    assert train(Path("models/fourth"), "--restart") == 0
    assert len(steps) == 12
    assert Path("runs/third/state.pt").is_file()
    assert Path("runs/fourth/state.pt").is_file()


def test_a_finished_training_is_written_also_where_another_checkpoint_was(
    data, tmp_path, tiny, monkeypatch, command
):
    assert main(command(data, tmp_path, steps=4)) == 0
    assert main(command(data, tmp_path / "other", steps=6)) == 0
    shutil.rmtree(tmp_path / "out")
    shutil.copytree(tmp_path / "other" / "out", tmp_path / "out")
    steps = counting(monkeypatch)
    assert main(command(data, tmp_path, steps=4)) == 0
    assert steps == []
    assert load_checkpoint(tmp_path / "out")[1].training["steps"] == 4


@pytest.mark.parametrize(
    "change",
    [
        {"model": {}},
        {"model": 0},
        {"motion": [1]},
        {"optimiser": {}},
        {"optimiser": {"state": 1, "param_groups": 2}},
        {"step": "one"},
        {"seconds": [1]},
        {"schedule": 5},
        {"schedule": [[1]]},
    ],
    ids=str,
)
def test_a_state_that_says_it_belongs_to_the_training_and_does_not_fit_it_is_refused(
    tmp_path, tiny_run, change
):
    tiny_run().save()
    torch.save(torch.load(tmp_path / "state.pt", weights_only=True) | change, tmp_path / "state.pt")
    with pytest.raises(UserError, match="does not hold what it says: train with --restart"):
        tiny_run()


@pytest.fixture
def tiny_run(tmp_path):
    """Return a function that makes, or goes on with, a training without data."""
    settings = TrainingSettings(steps=4, motion=0.1)
    return lambda: TrainingRun(tmp_path, ModelConfig.small(4), settings, block=2)


def test_settings_are_read_from_states_only_and_our_own_mistakes_are_not_hidden(tmp_path, monkeypatch):
    state = tmp_path / "state.pt"
    assert recorded_settings(tmp_path) == {}
    torch.save({"identity": '{"settings": {"lr": 0.5}}'}, state)
    assert recorded_settings(tmp_path) == {"lr": 0.5}
    whole = state.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no state", whole.replace(b"settings", b"sottings")):
        state.write_bytes(damaged)
        assert recorded_settings(tmp_path) == {}
    torch.save([1, 2], state)
    assert recorded_settings(tmp_path) == {}
    kept = dict.fromkeys(("step", "seconds", "model", "optimiser"), 0)
    for identity in ("[1]", "5", '{"settings": [1]}', "no JSON"):
        torch.save(kept | {"identity": identity}, state)
        with pytest.raises(UserError, match="cannot be read .*--restart"):
            read_state(state, torch.device("cpu"), {}, {"settings": TrainingSettings})

    def mistaken(*_, **__):
        raise AttributeError("of ours")

    monkeypatch.setattr(torch, "load", mistaken)
    with pytest.raises(AttributeError, match="of ours"):
        recorded_settings(tmp_path)

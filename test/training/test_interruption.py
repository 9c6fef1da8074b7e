"""Trainings that end early, go on, or are refused to."""

import os
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
from world_model_ros.training import train
from world_model_ros.training.loop import (
    TrainingInterruptedError,
    TrainingRun,
    TrainingSettings,
)


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
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert (tmp_path / "run" / "state.pt").exists()


def test_a_run_stops_only_by_its_own_error(tmp_path, tiny):
    run = TrainingRun(tmp_path, tiny(4), TrainingSettings(steps=1))
    assert not run.finished
    run.save()
    with pytest.raises(UserError, match=r"settings\.steps 1 there, 2 now"):
        TrainingRun(tmp_path, tiny(4), TrainingSettings(steps=2))
    assert not issubclass(TrainingInterruptedError, UserError)

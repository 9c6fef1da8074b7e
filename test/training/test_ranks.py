"""Training in two processes, started by torchrun, that talk by gloo."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from world_model_ros.cli import main
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.training import train
from world_model_ros.training.loop import TrainingRun
from world_model_ros.training.ranks import Ranks

SCRIPT = Path(__file__).with_name("rank_process.py")
_SPEC = importlib.util.spec_from_file_location("rank_process", SCRIPT)
rank_process = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(rank_process)
NO_HEADS = {"temporal-steps": 0, "inverse-steps": 0}


def torchrun(*words):
    environment = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--"]
    return subprocess.Popen(
        [sys.executable, *run, str(SCRIPT), *map(str, words)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def same_model(monkeypatch):
    monkeypatch.setitem(train._SIZES, "small", rank_process.tiny)


def test_two_ranks_of_64_clips_give_the_gradients_of_one_of_128(tmp_path):
    process = torchrun("compare", tmp_path)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    for rank in range(2):
        apart = json.loads((tmp_path / f"{rank}.json").read_text())
        assert apart.keys() > {"sigreg", "prediction", "projector.net.1.running_var"}
        assert {name: value for name, value in apart.items() if value > 1e-5} == {}


def test_two_ranks_train_like_one_and_one_goes_on_where_two_were_interrupted(
    data, tmp_path, same_model, command, lines, capsys
):
    options = {"steps": 4000, "batch": 16, **NO_HEADS}
    process = torchrun(tmp_path, *command(data, tmp_path, **options))
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None, process.communicate()
        threading.Event().wait(0.05)
    os.kill(int((tmp_path / "pid1").read_text()), signal.SIGINT)  # one rank alone, and not the first
    _, error = process.communicate(timeout=200)
    assert process.returncode != 0
    assert error.count("the same command goes on from there") == 1
    done = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"]
    assert 20 <= done < 4000
    assert lines(tmp_path)[-1]["step"] <= done
    assert not (tmp_path / "out").exists()
    # one process, with the same schedule of the learning rate: the first 20 steps are the same
    interrupt_after(20, command(data, tmp_path / "single", **options))
    shared, single = lines(tmp_path)[0], lines(tmp_path / "single")[0]
    for name in ("prediction", "sigreg"):
        assert shared[name] == pytest.approx(single[name], rel=1e-3)
    # a checkpoint of what two have learned, by one process
    capsys.readouterr()
    assert main(command(data, tmp_path, **{**options, "steps": done})) == 0
    assert load_checkpoint(tmp_path / "out")[1].training["steps"] == done


def interrupt_after(step, words):
    """Train in this process and interrupt it in a step."""

    def stopping(self, clips, image, stop):
        if self.step == step - 1:
            stop.set()
        return original(self, clips, image, stop)

    original = TrainingRun._train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "_train_step", stopping)
        assert main(words) == 130


def test_two_ranks_go_on_where_one_ended_and_write_one_checkpoint(data, tmp_path, same_model, command, lines):
    options = {"batch": 16, "memory": 0, **NO_HEADS}
    assert main(command(data, tmp_path, steps=20, **options)) == 0
    for cache in data.parent.glob("*.frames"):
        cache.unlink()
    process = torchrun(tmp_path, *command(data, tmp_path, steps=40, **options))
    out, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert "going on at step 20 of 40" in error
    assert out.count("checkpoint: ") == 1
    assert error.count("are written to") == 1
    training = load_checkpoint(tmp_path / "out")[1].training
    assert (training["processes"], training["steps"]) == (2, 40)
    assert [line["step"] for line in lines(tmp_path) if "prediction" in line] == [20, 40]


def test_each_rank_takes_its_part_and_a_batch_that_cannot_be_shared_is_refused():
    parts = [Ranks(rank, 4).part(np.arange(8)) for rank in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(8))
    with pytest.raises(UserError, match="the 15 clips of a step .* by 4 processes: give --batch 12"):
        Ranks(0, 4).part(np.arange(15))

"""Training on a GPU: it learns, and a thread fetches each batch ahead."""

import numpy as np
import pytest
import torch

from world_model_ros.cli import main
from world_model_ros.data.clips import Clips
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.normalisation import action_spec
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import ModelConfig
from world_model_ros.training.loop import TrainingRun, TrainingSettings, batch_indices

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_on_a_gpu_beats_copying(data, tmp_path, tiny, command, precision):
    options = {"device": "cuda", "precision": precision, "augment": 0.1}
    assert main(command(data, tmp_path, steps=200, batch=32, lr=3e-3, **options)) == 0
    _, spec = load_checkpoint(tmp_path / "out")
    assert spec.training["validation"]["ratio"] < 0.7


def test_the_batches_that_are_fetched_ahead_are_those_of_the_steps(data, tmp_path):
    file = EpisodeFile(data)
    clips = Clips(file, action_spec(file), 2)
    run = TrainingRun(tmp_path, ModelConfig.small(4), TrainingSettings(steps=4, batch=8), "cuda")
    for step in (0, 1, 2, 3):
        run.step = step
        pixels, blocks = run._batch(clips)
        wanted = clips.batch(batch_indices(step, len(clips), 8, 0))
        np.testing.assert_array_equal(pixels.cpu().numpy(), wanted[0])
        np.testing.assert_array_equal(blocks.cpu().numpy(), wanted[1])
    assert run._coming is None

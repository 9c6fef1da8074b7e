"""The decoder is fitted to a finished world model, and changes nothing of it."""

import numpy as np
import torch
from safetensors.torch import load_file

from world_model_ros.cli import main
from world_model_ros.data.clips import Clips
from world_model_ros.data.normalisation import action_spec
from world_model_ros.data.together import EpisodeFiles
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import ImageSpec
from world_model_ros.training import decoder
from world_model_ros.training.card import with_heads
from world_model_ros.training.decoder import decoder_metrics, fit_decoder, picture_loss

NO_HEADS = {"temporal-steps": 0, "inverse-steps": 0}


class Ideal(torch.nn.Module):
    """An encoder whose latents are the places of the bright spot, in standard deviations or so."""

    def __init__(self):
        super().__init__()
        self.none = torch.nn.Parameter(torch.zeros(1))

    def encode(self, pixels):
        light = pixels.mean(1).sub(pixels.mean(1).amin((-2, -1), keepdim=True))
        grid = torch.linspace(-1, 1, pixels.shape[-1])
        total = light.sum((-2, -1))
        return torch.stack([(light.sum(1) @ grid) / total, (light.sum(2) @ grid) / total], -1) * 3


def test_a_decoder_shows_where_the_spot_is(data, monkeypatch):
    monkeypatch.setattr(decoder, "WIDTH", 32)
    with EpisodeFiles([data]) as file:
        action = action_spec(file, range(len(file)))
        clips, unseen = (Clips(file, action, 2, 4, episodes) for episodes in (range(24), range(24, 32)))
    model, image = Ideal(), ImageSpec(64)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fitted = fit_decoder(model, clips, image, steps=120, size=32)
    assert torch.equal(torch.rand(1), expected)  # torch's own generator is left alone
    untrained = fit_decoder(model, clips, image, steps=1, size=32)
    found, before = (decoder_metrics(model, d, unseen, image)["decoder_psnr"] for d in (fitted, untrained))
    assert found > before + 4  # dB; one step shows little but the median frame
    spot = unseen.pixels[:40].mean(3)
    shown = fitted.pictures(model.encode(torch.from_numpy(unseen.pixels[:40]).movedim(-1, 1).float()))
    shown = shown.mean(3)
    places = [
        np.stack(np.unravel_index(s.reshape(40, -1).argmax(1), s.shape[1:]), 1) / s.shape[1]
        for s in (spot, shown)
    ]
    assert np.median(np.linalg.norm(places[0] - places[1], axis=1)) < 0.07


def test_errors_count_more_where_the_frame_is_not_the_median_frame():
    median = torch.zeros(3, 8, 8)
    wanted = torch.zeros(1, 3, 8, 8)
    wanted[..., 2, 2] = 0.5
    missed, invented = wanted.clone(), wanted.clone()
    missed[..., 2, 2] = 0
    invented[..., 6, 6] = 0.5
    assert picture_loss(wanted, wanted, median) == 0
    assert picture_loss(missed, wanted, median) > 3 * picture_loss(invented, wanted, median) > 0


def test_a_decoder_comes_later_and_changes_nothing_else(data, tmp_path, tiny, command):
    assert main(command(data, tmp_path, steps=4)) == 0
    bare, later = tmp_path / "out", tmp_path / "later"
    words = ["train-heads", "--data", str(data), "--checkpoint", str(bare), "--out", str(later)]
    assert main([*words, "--decoder", "3"]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (bare, later))
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"decoder"}
    (old, told), (new, spec) = load_checkpoint(bare), load_checkpoint(later)
    assert old.decoder is None
    assert new.decoder.pictures(torch.zeros(8)).shape == (64, 64, 3)
    assert (spec.thresholds, spec.action) == (told.thresholds, told.action)
    assert spec.training["validation"]["decoder_psnr"] > 5
    assert spec.training["decoder"]["command"].endswith("--decoder-steps 3")
    card = (later / "card.md").read_text()
    assert card.startswith((bare / "card.md").read_text().rstrip())
    assert "decoder, mean PSNR" in card
    assert spec.training["decoder"]["command"] in card


def test_train_makes_a_decoder_on_demand_and_a_later_training_leaves_it_out(data, tmp_path, tiny, command):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(command(data, first, steps=2, **NO_HEADS, **{"decoder-steps": 2})) == 0
    assert load_checkpoint(first / "out")[0].decoder is not None
    assert "decoder, mean PSNR" in (first / "out" / "card.md").read_text()
    assert main(command(data, second, steps=2, start=first / "out", **NO_HEADS)) == 0
    assert load_checkpoint(second / "out")[0].decoder is None


def test_a_decoder_that_makes_no_sense_is_refused(data, tmp_path, capsys, command):
    assert main(command(data, tmp_path, **{"decoder-steps": -1})) == 2
    assert "must not be negative" in capsys.readouterr().err


CARD = "# a\n\nby hand\n"
NOTE = {"command": "python x", "commit": "c0"}


def test_a_cards_sections_each_stay_but_for_the_one_that_is_made_again():
    with_object = with_heads(CARD, "heads", NOTE, {"object_p25": 0.1, "object_p50": 0.2, "object_p90": 0.3})
    by_hand = with_object + "\n## Probing\n\nmeasured\n"
    decoded = with_heads(by_hand, "decoder", NOTE | {"command": "python d"}, {"decoder_psnr": 28.25})
    assert decoded.startswith(by_hand)
    assert "28.2 dB" in decoded
    again = with_heads(decoded, "decoder", NOTE | {"command": "python e"}, {"decoder_psnr": 30.0})
    assert again == decoded.replace("python d", "python e").replace("28.2 dB", "30.0 dB")
    heads = with_heads(again, "heads", NOTE | {"command": "python h"}, {"inverse_1": 0.5})
    assert [line for line in heads.splitlines() if line.startswith("## ")] == [
        "## Heads, trained afterwards",
        "## Probing",
        "## Decoder, trained afterwards",
    ]
    assert "python h" in heads
    assert "python x" not in heads
    ways = {"landmark_edges": 2.0, "landmarks_joined": 0.5}
    marked = with_heads(heads, "landmarks", NOTE | {"command": "python l"}, ways)
    assert marked.startswith(heads)
    assert "a way joins 50.0% of the pairs" in marked
    both = with_heads(marked, "heads", NOTE, {"inverse_1": 0.5, "decoder_psnr": 31.0} | ways)
    assert "## Decoder" not in both
    assert "## Landmarks" not in both
    assert both.count("a way joins") == 1
    assert both.count("dB") == 1
    assert "measured" in both

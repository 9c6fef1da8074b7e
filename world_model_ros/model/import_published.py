"""Read a published LeWM folder, for the ``import-checkpoint`` verb (training/import_checkpoint.py).

The folder holds ``config.json`` (Hydra) and ``weights.pt``. Of the configuration only numbers are
read: its ``_target_`` strings name code and are never followed. The weights are read as plain tensors.
"""

import dataclasses
import json
import re
import warnings
from pathlib import Path

import torch
from torch import Tensor

from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import build_model, load_pickled, strip_prefixes
from world_model_ros.model.config import ActionSpec, ModelConfig
from world_model_ros.model.strict import build

CONFIG = "config.json"
WEIGHTS = "weights.pt"
SAFE = (2, 6)  # the first torch whose weights_only keeps its promise

# ViT sizes by name: width, layers, heads, MLP
_SIZES = {
    "tiny": (192, 12, 3, 768),
    "small": (384, 12, 6, 1536),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
}
# the encoder's keys as transformers 4 spelled them, and as transformers 5 does
_RESPELLED = [
    (r"^encoder\.encoder\.layer\.(\d+)\.", r"encoder.layers.\1."),
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(encoder\.layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
]


def read_published(folder: str | Path):
    """Return (model in evaluation mode, ModelConfig) of a published LeWM folder.

    Both key spellings are accepted, and what compilers and trainers put before the names or around the
    weights ({"state_dict": ...}); nothing missing or left over. Raises UserError naming the file.
    """
    folder = Path(folder)
    config = _model_config(folder / CONFIG)
    path = folder / WEIGHTS
    state = respell(strip_prefixes(_read_weights(path)))
    # the one width that the configuration may leave to a default
    mixing = state.get("action_encoder.patch_embed.weight")
    if mixing is not None and mixing.ndim == 3:
        config = dataclasses.replace(config, action_mixed=mixing.shape[0])
    return build_model(config, state, path).eval(), config


def respell(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the encoder's keys as transformers 5 spells them.

    Raises UserError where a tensor is there under both spellings.
    """
    respelled = {}
    for key, value in state.items():
        for pattern, replacement in _RESPELLED if key.startswith("encoder.") else ():
            key = re.sub(pattern, replacement, key)
        if key in respelled:
            raise UserError(f"the weights hold {key} under two spellings: download them again.")
        respelled[key] = value
    return respelled


def read_action_stats(path: Path) -> ActionSpec:
    """Read the statistics of one control step; UserError naming the file."""
    try:
        return build(ActionSpec, _read_json(path), str(path))
    except OverflowError:
        raise UserError(f"{path} has a number that is too large.") from None


def _read_json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}).") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a JSON object.")
    return values


def _read_weights(path: Path) -> dict[str, Tensor]:
    if torch.__version__ < SAFE:
        raise UserError(
            f"torch {torch.__version__} may run what a file of weights says (CVE-2025-32434), and {path} is "
            "somebody else's: pip install --upgrade torch."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how the file was pickled: nothing a user could mend
            state = load_pickled(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: a published folder holds {CONFIG} and {WEIGHTS}.") from None
    except Exception as error:  # unpickling a damaged or hostile file may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is not a plain file of tensors, so it was not read ({reason[:160]}): "
            "download it again from a source you trust."
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = dict(state["state_dict"])
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise UserError(f"{path} must hold a flat dictionary of tensors.")
    return state


def _model_config(path: Path) -> ModelConfig:
    """Read the dimensions out of a Hydra configuration, numbers only."""
    root = _read_json(path)

    def number(section: str, name: str, default=None, kind=int):
        part = root.get(section)
        if not isinstance(part, dict):
            raise UserError(f"{path} has no section {section!r}: it is no published LeWM configuration.")
        value = part.get(name, default)
        allowed = int if kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise UserError(f"{path}: {section}.{name} must be a number, it is {value!r}.")
        try:
            return kind(value)
        except OverflowError:
            raise UserError(f"{path}: {section}.{name} is too large.") from None

    # checks the section, too; a width without a name has to be spelled out
    patch = number("encoder", "patch_size")
    size = root["encoder"].get("size")
    width, depth, heads, mlp = _SIZES.get(size, (None,) * 4) if isinstance(size, str) else (None,) * 4
    latent = number("projector", "output_dim")
    input_dim = number("predictor", "input_dim")
    agreeing = {
        "predictor.input_dim": input_dim,
        "predictor.output_dim": number("predictor", "output_dim", input_dim),
        "action_encoder.emb_dim": number("action_encoder", "emb_dim"),
        "pred_proj.output_dim": number("pred_proj", "output_dim"),
    }
    other = [f"{name} {value}" for name, value in agreeing.items() if value != latent]
    hidden = number("projector", "hidden_dim")
    if number("pred_proj", "hidden_dim") != hidden:
        other.append("pred_proj.hidden_dim differs from projector.hidden_dim")
    if other:
        raise UserError(f"{path} contradicts itself: projector.output_dim {latent}, but {'; '.join(other)}.")
    config = ModelConfig(
        encoder="vit",
        image_size=number("encoder", "image_size"),
        patch_size=patch,
        encoder_width=number("encoder", "hidden_size", width),
        encoder_depth=number("encoder", "num_hidden_layers", depth),
        encoder_heads=number("encoder", "num_attention_heads", heads),
        encoder_mlp=number("encoder", "intermediate_size", mlp),
        action_dim=number("action_encoder", "input_dim"),
        action_hidden=latent * number("action_encoder", "mlp_scale", 4),
        latent_dim=latent,
        history=number("predictor", "num_frames"),
        projector_hidden=hidden,
        predictor_width=number("predictor", "hidden_dim"),
        predictor_depth=number("predictor", "depth"),
        predictor_heads=number("predictor", "heads"),
        predictor_head_dim=number("predictor", "dim_head", 64),
        predictor_mlp=number("predictor", "mlp_dim"),
        dropout=number("predictor", "dropout", 0.0, float),
    )
    problems = config.problems()
    if problems:
        raise UserError(f"{path} is impossible: {'; '.join(problems)}.")
    return config

"""What a checkpoint says about itself: the content of its config.json.

Plain data, no torch: nodes that never run the model read limits and timing from here too.
"""

import dataclasses
import functools
import json
import math
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from world_model_ros.errors import UserError
from world_model_ros.model.strict import build, json_text

FORMAT_VERSION = 1
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "card.md"

# Limits, so that a damaged or hostile file takes neither hours nor all memory to read.
_DEEPEST = 256  # layers
_WIDEST = 1 << 16  # of anything in a model
_LARGEST_IMAGE = 4096  # pixels a side
_LONGEST = 1 << 20  # bytes of a config.json
_PICTURES = (16, 32, 64, 128, 256, 512)  # pixels a side, of a decoder
_WIDEST_DECODER = 1024
_LARGEST_ENSEMBLE = 16
MOST_LANDMARKS = 1024
PERIODS = (1e-3, 60.0)  # seconds

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelConfig:
    """Dimensions of a LeWorldModel. ``full`` is the published one, ``small`` the one for CPUs."""

    encoder: str  # "vit" or "conv"
    image_size: int  # pixels, square
    action_dim: int  # of one action block: control steps x action dimensions
    latent_dim: int
    history: int  # frames the predictor sees at most
    encoder_width: int
    projector_hidden: int
    action_hidden: int
    predictor_width: int
    predictor_depth: int
    predictor_heads: int
    predictor_head_dim: int
    predictor_mlp: int
    dropout: float
    action_mixed: int = 0  # width after the action encoder's first layer, 0: action_dim
    # ViT only
    patch_size: int = 0
    encoder_depth: int = 0
    encoder_heads: int = 0
    encoder_mlp: int = 0
    # convolutional only: channels of the stages, the first of stride 4, the others of stride 2
    channels: tuple[int, ...] = ()
    encoder_norm: str = "group"  # or "batch"
    temporal_hidden: int = 0  # width of the temporal-distance head, 0: none
    inverse_hidden: int = 0  # width of the inverse-dynamics head, 0: none
    object_hidden: int = 0  # width of the object-distance head, 0: none
    object_code: int = 0  # numbers in its codes
    decoder_width: int = 0  # channels of the picture decoder's first stages, 0: none
    decoder_size: int = 0  # pixels a side of its pictures
    risk_hidden: int = 0  # width of the risk head, 0: none
    ensemble: int = 0  # further predictors
    landmarks: int = 0  # recorded latents that plans aim at on the way to a far goal

    @classmethod
    def full(cls, action_dim: int) -> "ModelConfig":
        """Return the published architecture, 18.03 M values (paper, appendix; reference code)."""
        return cls(
            encoder="vit",
            image_size=224,
            action_dim=action_dim,
            latent_dim=192,
            history=3,
            encoder_width=192,
            projector_hidden=2048,
            action_hidden=768,
            predictor_width=192,
            predictor_depth=6,
            predictor_heads=16,
            predictor_head_dim=64,
            predictor_mlp=2048,
            dropout=0.1,
            patch_size=14,
            encoder_depth=12,
            encoder_heads=3,
            encoder_mlp=768,
            action_mixed=10,
        )

    @classmethod
    def small(cls, action_dim: int) -> "ModelConfig":
        """Return a model for CPUs: a convolutional encoder in front of a narrower predictor."""
        return cls(
            encoder="conv",
            image_size=64,
            action_dim=action_dim,
            latent_dim=64,
            history=3,
            encoder_width=256,
            projector_hidden=512,
            action_hidden=256,
            predictor_width=128,
            predictor_depth=2,
            predictor_heads=4,
            predictor_head_dim=32,
            predictor_mlp=256,
            dropout=0.0,
            channels=(32, 64, 128),
        )

    @classmethod
    def medium(cls, action_dim: int) -> "ModelConfig":
        """Return a model for CPUs that sees more and predicts contact: ``small``, a layer deeper each."""
        return dataclasses.replace(
            cls.small(action_dim),
            channels=(32, 64, 128, 256),
            encoder_norm="batch",
            predictor_depth=3,
            predictor_mlp=512,
            dropout=0.1,
        )

    def problems(self) -> list[str]:
        """Return what is impossible about these dimensions, a sentence each."""
        problems = []
        positive = [
            "image_size", "action_dim", "latent_dim", "history", "encoder_width", "projector_hidden",
            "action_hidden", "predictor_width", "predictor_depth", "predictor_heads", "predictor_head_dim",
            "predictor_mlp",
        ]  # fmt: skip
        if self.encoder == "vit":
            positive += ["patch_size", "encoder_depth", "encoder_heads", "encoder_mlp"]
        elif self.encoder != "conv":
            problems.append(f"model.encoder {self.encoder!r} is neither vit nor conv")
        problems += [f"model.{name} must be positive" for name in positive if getattr(self, name) < 1]
        if max(self.encoder_depth, self.predictor_depth) > _DEEPEST:
            problems.append(f"more than {_DEEPEST} layers are not supported")
        if self.ensemble > _LARGEST_ENSEMBLE:
            problems.append(f"model.ensemble {self.ensemble} is above {_LARGEST_ENSEMBLE}")
        if self.landmarks > MOST_LANDMARKS:
            problems.append(f"model.landmarks {self.landmarks} is above {MOST_LANDMARKS}")
        if self.landmarks > 0 and self.temporal_hidden < 1:
            problems.append("model.landmarks need the temporal-distance head, model.temporal_hidden")
        optional = ("action_mixed", "temporal_hidden", "inverse_hidden", "object_hidden", "object_code",
                    "decoder_width", "decoder_size", "risk_hidden", "ensemble", "landmarks")  # fmt: skip
        problems += [f"model.{name} must not be negative" for name in optional if getattr(self, name) < 0]
        problems += [
            f"model.{f.name} is above {_WIDEST}"
            for f in dataclasses.fields(self)
            if f.type is int and getattr(self, f.name) > _WIDEST
        ]
        if bool(self.object_hidden > 0) != bool(self.object_code > 0):
            problems.append("model.object_hidden and model.object_code must both be given, or neither")
        problems += self._decoder_problems()
        if self.image_size > _LARGEST_IMAGE or len(self.channels) > _DEEPEST:
            problems.append(f"images above {_LARGEST_IMAGE} pixels a side are not supported")
        if any(c > _WIDEST for c in self.channels):
            problems.append(f"model.channels has a number above {_WIDEST}")
        if not 0 <= self.dropout < 1:
            problems.append(f"model.dropout {self.dropout} is not in [0, 1)")
        if problems:
            return problems
        if self.encoder == "vit" and self.image_size % self.patch_size:
            problems.append(
                f"model.image_size {self.image_size} is no multiple of patch_size {self.patch_size}"
            )
        if self.encoder == "vit" and self.encoder_width % self.encoder_heads:
            problems.append(
                f"model.encoder_width {self.encoder_width} is no multiple of encoder_heads "
                f"{self.encoder_heads}"
            )
        if self.encoder == "conv":
            if self.encoder_norm not in ("group", "batch"):
                problems.append(f"model.encoder_norm {self.encoder_norm!r} is neither group nor batch")
            if not self.channels or any(c < 8 or c % 8 for c in self.channels):
                problems.append(f"model.channels {list(self.channels)} must be positive multiples of 8")
            elif self.image_size % (2 << len(self.channels)):
                problems.append(
                    f"model.image_size {self.image_size} is no multiple of {2 << len(self.channels)}, "
                    f"which {len(self.channels)} convolutions need"
                )
        return problems

    def _decoder_problems(self) -> list[str]:
        width, size = self.decoder_width, self.decoder_size
        if not width and not size:
            return []
        if width not in range(32, _WIDEST_DECODER + 1, 8):
            return [f"model.decoder_width {width} is no multiple of 8 between 32 and {_WIDEST_DECODER}"]
        if size not in _PICTURES:
            return [f"model.decoder_size {size} is none of {', '.join(map(str, _PICTURES))}"]
        return []


@dataclass(frozen=True)
class ImageSpec:
    """How a camera frame becomes the encoder's input.

    ``resize`` is "area" (cut to the central square, area-averaged on uint8, then normalised) or
    "bilinear" (normalised, then bilinear with antialiasing: the published order).
    """

    size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resize: str = "area"


@dataclass(frozen=True)
class ActionSpec:
    """The action of one control step, in physical units; one entry per dimension."""

    names: tuple[str, ...]
    kind: str  # "joint_velocity" or "twist"; others train and plan, but command_node cannot send them
    unit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    frame: str = ""  # of a twist

    @property
    def dim(self) -> int:
        """Number of action dimensions."""
        return len(self.names)


class ActionInterface(NamedTuple):
    """What two sides must have in common for an action to mean the same on both."""

    names: tuple[str, ...]
    kind: str
    unit: str
    frame: str
    low: tuple[float, ...]  # limits, in ``unit``; empty where none are stated
    high: tuple[float, ...]
    period: float  # seconds, of one control step
    block: int  # control steps in one model step


def interface_differences(
    theirs: ActionInterface, ours: ActionInterface, sides: tuple[str, str]
) -> list[str]:
    """Return what differs, a phrase each with both values; empty where the two are the same.

    ``sides`` says whose they are, such as ("in the checkpoint", "in the data"). Limits are compared where
    both sides state some. A difference is refused by ``check_world`` in sim/tasks for a task, and by
    training/train.py and evaluation/recordings.py for episodes; a robot's own limits narrow the
    checkpoint's (``narrowed`` in safety/limits.py).
    """
    words = [
        (tuple(map(str, side.names)), side.kind, side.unit, side.frame, side.period, side.block)
        for side in (theirs, ours)
    ]
    titles = ("action names", "kind", "unit", "frame", "period", "block")
    differences = [
        f"{title} {_shown(a)} {sides[0]} and {_shown(b)} {sides[1]}"
        for title, a, b in zip(titles, *words, strict=True)
        if not (math.isclose(a, b, rel_tol=1e-6) if title == "period" else a == b)
    ]
    a, b = ((*side.low, *side.high) for side in (theirs, ours))
    # what is stored in single precision may differ a little
    same = len(a) == len(b) and all(map(functools.partial(math.isclose, rel_tol=1e-4, abs_tol=1e-5), a, b))
    if a and b and not same:
        differences.append(f"limits {_ranges(theirs)} {sides[0]} and {_ranges(ours)} {sides[1]}")
    return differences


def _shown(value) -> str:
    return ", ".join(value) if isinstance(value, tuple) else repr(value)


def _ranges(side: ActionInterface) -> str:
    return ", ".join(f"[{low:g}, {high:g}]" for low, high in zip(side.low, side.high, strict=True))


@dataclass(frozen=True)
class Thresholds:
    """Calibrated on held-out data; ``None`` where a checkpoint has none."""

    goal_reached: float | None = None  # squared L2 between latents
    object_reached: float | None = None  # the same for the object-distance head: distance of codes
    surprise: float | None = None  # squared L2 between predicted and seen latent
    norm_low: float | None = None  # range of latent norms
    norm_high: float | None = None


@dataclass(frozen=True)
class LightRange:
    """Of the training pictures; empty where a checkpoint has none.

    Each list is the brightness (mean of all pixels, 0 to 255) and the shares of red, green and blue in it.
    """

    low: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class RobotSpec:
    """The robot that a checkpoint was trained for, as its robot file describes it; empty where it is unknown.

    Its actions are those of the checkpoint.
    """

    name: str = ""
    camera: str = ""  # name of the camera that the model sees
    camera_topic: str = ""
    camera_rate: float = 0.0  # Hz
    joints: tuple[str, ...] = ()
    joint_prefix: str = ""
    command_interface: str = ""


@dataclass(frozen=True)
class RiskSpec:
    """The event whose probability the risk head tells; empty where a checkpoint has no such head."""

    name: str = ""  # a sentence in the future, such as "the glass will fall"
    event: str = ""  # what it was in the training data, such as "glass_z < 0.16"
    threshold: float | None = None  # probability from which on it is announced


@dataclass(frozen=True)
class CheckpointSpec:
    """All of config.json."""

    model: ModelConfig
    image: ImageSpec
    action: ActionSpec
    period: float  # seconds, of one control step
    block: int  # control steps in one model step
    thresholds: Thresholds = field(default_factory=Thresholds)
    light: LightRange = field(default_factory=LightRange)
    robot: RobotSpec = field(default_factory=RobotSpec)
    risk: RiskSpec = field(default_factory=RiskSpec)
    training: dict = field(default_factory=dict)  # provenance: task, data, seed, commit, steps
    format_version: int = FORMAT_VERSION

    @property
    def history(self) -> int:
        """Frames the predictor sees at most."""
        return self.model.history

    @property
    def interface(self) -> ActionInterface:
        """What a task, a robot or a data set must have in common with this checkpoint."""
        a = self.action
        return ActionInterface(a.names, a.kind, a.unit, a.frame, a.low, a.high, self.period, self.block)

    def validate(self) -> None:
        """Raise UserError where the numbers contradict each other."""
        problems = self.problems()
        if problems:
            raise UserError("the checkpoint's config.json contradicts itself: " + "; ".join(problems) + ".")

    def problems(self) -> list[str]:
        """Return how the numbers contradict each other, a phrase each."""
        action, problems = self.action, self.model.problems()
        if self.format_version != FORMAT_VERSION:
            problems.append(f"format_version is {self.format_version}, this version reads {FORMAT_VERSION}")
        lengths = {name: len(getattr(action, name)) for name in ("names", "mean", "std", "low", "high")}
        if len(set(lengths.values())) != 1 or not action.names:
            problems.append(f"action lists differ in length: {lengths}")
        else:
            values = [*action.mean, *action.std, *action.low, *action.high]
            if not all(math.isfinite(v) for v in values):
                problems.append("action statistics and limits must be finite")
            if any(std <= 0 for std in action.std):
                problems.append(f"action std must be positive, it is {list(action.std)}")
            if any(lo >= hi for lo, hi in zip(action.low, action.high, strict=True)):
                problems.append(f"action low {list(action.low)} is not below high {list(action.high)}")
            if self.model.action_dim != self.block * action.dim:
                problems.append(
                    f"model.action_dim is {self.model.action_dim}, block x action names is "
                    f"{self.block} x {action.dim}"
                )
        if len(set(action.names)) != len(action.names):
            problems.append(f"action names {list(action.names)} are not all different")
        if not re.fullmatch("[a-z][a-z0-9_]*", action.kind):
            problems.append(f"action kind {action.kind!r} must be a word such as joint_velocity or twist")
        if self.block < 1 or not PERIODS[0] <= self.period <= PERIODS[1]:
            problems.append(
                f"block {self.block} must be positive, period {self.period} s within {list(PERIODS)}"
            )
        problems += self._image_problems() + self._threshold_problems() + self._light_problems()
        return problems + self._risk_problems()

    def _image_problems(self) -> list[str]:
        image, problems = self.image, []
        if image.resize not in ("area", "bilinear"):
            problems.append(f"image resize {image.resize!r} is neither area nor bilinear")
        if image.size != self.model.image_size:
            problems.append(f"image size {image.size} differs from model.image_size {self.model.image_size}")
        values = [*image.mean, *image.std]
        if not (len(image.mean) == len(image.std) == 3 and all(map(math.isfinite, values))):
            problems.append("image mean and std must be three finite numbers each")
        elif min(image.std) <= 0:
            problems.append(f"image std must be positive, it is {list(image.std)}")
        return problems

    def _threshold_problems(self) -> list[str]:
        thresholds = self.thresholds
        values = dataclasses.asdict(thresholds)
        problems = [
            f"threshold {name} is {value}: it must be a finite number, not negative"
            for name, value in values.items()
            if value is not None and not 0 <= value < math.inf
        ]
        low, high = thresholds.norm_low, thresholds.norm_high
        if not problems and None not in (low, high) and low > high:
            problems.append(f"threshold norm_low {low} is above norm_high {high}")
        return problems

    def _light_problems(self) -> list[str]:
        light = self.light
        if not (light.low or light.mean or light.high):
            return []
        if {len(light.low), len(light.mean), len(light.high)} != {4}:
            return ["light must have four numbers each in low, mean and high"]
        tops = (255.0, 1.0, 1.0, 1.0)
        values = zip(light.low, light.mean, light.high, tops, strict=True)
        if not all(0 <= low <= mean <= high <= top for low, mean, high, top in values):
            return [
                f"light is {dataclasses.asdict(light)}: it must be 0 <= low <= mean <= high <= {list(tops)}"
            ]
        return []

    def _risk_problems(self) -> list[str]:
        risk, head = self.risk, self.model.risk_hidden > 0
        if head != bool(risk.name) or head != (risk.threshold is not None):
            return ["model.risk_hidden, risk.name and risk.threshold must all be given, or none of them"]
        if head and not 0 < risk.threshold <= 1:
            return [f"risk.threshold is {risk.threshold}: it must be a probability above 0"]
        return []

    def to_json(self) -> str:
        """Return the text of config.json."""
        return json_text(dataclasses.asdict(self), indent=2) + "\n"


def read_spec(folder: str | Path) -> CheckpointSpec:
    """Read and check ``config.json`` of a checkpoint folder.

    Raises UserError naming the file when it is missing, broken or contradicts itself.
    """
    path = Path(folder) / CONFIG_NAME
    if not Path(folder).is_dir():
        raise UserError(f"no checkpoint at {folder}: give a folder with {CONFIG_NAME} and {WEIGHTS_NAME}.")
    try:
        if path.stat().st_size > _LONGEST:
            raise UserError(f"{path} has more than {_LONGEST} bytes: it is no checkpoint's configuration.")
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: a checkpoint folder holds {CONFIG_NAME} and {WEIGHTS_NAME}."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): copy the checkpoint again or train a new one."
        ) from None
    if isinstance(values, dict) and "_target_" in values:
        raise UserError(
            f"{path} is a published LeWM configuration: turn it into a checkpoint with "
            "`python -m world_model_ros import-checkpoint`."
        )
    _rename_old_keys(values)
    try:
        spec = build(CheckpointSpec, values, str(path))
        spec.validate()
    except OverflowError:
        raise UserError(f"{path} has a number that is too large: copy the checkpoint again.") from None
    return spec


def _rename_old_keys(values) -> None:
    """Give what ``training`` notes its present names: checkpoints written before have ``worthiness``."""
    training = values.get("training") if isinstance(values, dict) else None
    if not isinstance(training, dict) or "worthiness" not in training:
        return
    readiness = training.setdefault("readiness", training.pop("worthiness"))
    if isinstance(readiness, dict) and "fit" in readiness:
        readiness["ready"] = readiness.pop("fit")
        readiness["verdict"] = str(readiness.get("verdict", "")).replace("fit to plan", "ready to plan")


def find_checkpoint(name: str | Path) -> Path:
    """Return the folder of a checkpoint given as a path or as the name of a shipped one.

    Raises UserError that lists the shipped names when there is neither.
    """
    if not str(name):
        raise UserError("no checkpoint is given: name a checkpoint folder or a shipped model such as reach.")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    shipped = {}
    for share in _shares():
        if share.is_dir():
            for model in sorted(share.iterdir()):
                shipped.setdefault(model.name, model)
    if str(name) in shipped:
        return shipped[str(name)]
    raise UserError(
        f"no checkpoint at {str(name)!r}: give a checkpoint folder, or one of the models in models/ "
        f"({', '.join(sorted(shipped)) or 'there is none'})."
    )


def _shares() -> list[Path]:
    """Folders that may hold shipped models: the source tree, then every installed prefix."""
    ament = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    prefixes = [*Path(__file__).resolve().parents, *ament, sys.prefix]
    shares = [Path(prefix, "share", "world_model_ros", "models") for prefix in prefixes if prefix]
    return [Path(__file__).resolve().parents[2] / "models", *shares]

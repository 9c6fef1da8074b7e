"""The training loop: resumable, and the same whether it was interrupted or not.

Everything random in a step (batch, SIGReg's directions, disturbances, dropout) follows from the seed and
the step's number alone, so a resumed run needs no generator's state.
"""

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from world_model_ros.data.clips import Clips
from world_model_ros.errors import UserError
from world_model_ros.jsonable import json_text
from world_model_ros.model.config import ImageSpec, ModelConfig
from world_model_ros.model.image import normalise_pixels
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.model.sigreg import draw_directions
from world_model_ros.training.augment import augment
from world_model_ros.training.loss import FrameDropMonitor, training_loss
from world_model_ros.training.metrics import latent_figures, looks_collapsed, validate
from world_model_ros.training.motion import Motion
from world_model_ros.training.state import STATE_NAME, read_state, write_state

METRICS_NAME = "metrics.jsonl"
_SAVE_SECONDS = 60.0
_VALIDATION_CLIPS = 512
_WARMUP_SHARE = 0.01


@dataclass(frozen=True)
class TrainingSettings:
    """What decides the result of a training; a run continues only under the same ones."""

    steps: int = 2000
    batch: int = 128
    lr: float = 1e-3
    sigreg: float = 0.09  # weight of the regulariser, belongs to batches of 128
    projections: int = 1024
    motion: float = 0.0  # weight of a linear map from latents' change to actions, see motion.py
    augment: float = 0.0  # chance of each disturbance of a frame, see augment.py
    seed: int = 0
    weight_decay: float = 1e-3
    clip: float = 1.0
    bf16: bool = False
    report_every: int = 20  # steps between two lines of the metrics file
    validate_every: int = 250


IDENTITY_KINDS = {"model": ModelConfig, "settings": TrainingSettings}


def identity_of(config: ModelConfig, settings: TrainingSettings, more: dict) -> dict:
    """Return all that makes a training this one, as JSON gives it back; ``more`` says what it learns from."""
    return json.loads(json.dumps({"model": asdict(config), "settings": asdict(settings), **more}))


class TrainingInterruptedError(Exception):
    """Training was asked to stop; its state is on disk."""


class TrainingRun:
    """A model, its optimiser and the folder that holds their state and the metrics file.

    ``identity`` says what is trained on what; a state with another identity is refused (UserError).
    ``block`` is the number of control steps in an action block. ``start`` are weights to begin with
    instead of random ones.
    """

    def __init__(
        self,
        folder: str | Path,
        config: ModelConfig,
        settings: TrainingSettings,
        device: str = "cpu",
        identity: dict | None = None,
        block: int = 1,
        start: dict[str, torch.Tensor] | None = None,
    ):
        self.folder = Path(folder)
        self.settings = settings
        self.device = torch.device(device)
        self.identity = identity_of(config, settings, identity or {})
        torch.manual_seed(settings.seed)
        self.model = LeWorldModel(config).to(self.device)
        if start is not None:
            self.model.load_state_dict(start)
        self.motion = Motion(config.latent_dim, config.action_dim // block).to(self.device)
        learning = [self.model, self.motion] if settings.motion else [self.model]
        self.optimiser = torch.optim.AdamW(
            [p for module in learning for p in module.parameters()],
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.step = 0
        self.seconds = 0.0  # spent training, over all interruptions
        self._resume()

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.settings.steps

    def train(self, clips: Clips, validation: Clips, image: ImageSpec) -> None:
        """Train up to the last step, with a progress bar on terminals and lines elsewhere.

        On SIGINT or SIGTERM the state is saved and TrainingInterruptedError raised. UserError where the
        folder cannot be made, and where the loss stops being finite; the last good state stays.
        """
        settings = self.settings
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--run {self.folder} cannot be made ({error.strerror}): choose another place."
            ) from None
        chosen = validation.some(_VALIDATION_CLIPS, settings.seed)
        begun = time.monotonic() - self.seconds
        saved, window = time.monotonic(), []
        self.model.train()
        with (
            _stop_requests() as stop,
            (self.folder / METRICS_NAME).open("a") as metrics,
            tqdm(total=settings.steps, initial=self.step, unit="step", disable=None) as bar,
        ):
            while not self.finished:
                losses = self._train_step(clips, image)
                window.append((losses.prediction.detach(), losses.sigreg.detach()))
                bar.update()
                if self.step % settings.report_every == 0 or self.finished:
                    figures = self._report(window, losses)
                    window = []
                    _write_line(metrics, {"step": self.step, **figures})
                    bar.set_postfix_str(_summary(figures))
                if self.step % settings.validate_every == 0 or self.finished:
                    figures = validate(self.model, validation, image, chosen)
                    _write_line(metrics, {"step": self.step, "validation": figures})
                    _announce(bar, self.step, settings.steps, figures)
                if time.monotonic() - saved > _SAVE_SECONDS or self.finished or stop.is_set():
                    saved = time.monotonic()
                    self.seconds = saved - begun
                    self.save()
                if stop.is_set() and not self.finished:
                    raise TrainingInterruptedError
        self.model.eval()

    def save(self) -> None:
        """Write the state; a crash leaves the previous one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_state(
            self.folder / STATE_NAME,
            {
                "identity": json.dumps(self.identity),
                "step": self.step,
                "seconds": self.seconds,
                "model": self.model.state_dict(),
                "motion": self.motion.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            },
        )

    def _resume(self) -> None:
        path = self.folder / STATE_NAME
        if not path.exists():
            (self.folder / METRICS_NAME).unlink(missing_ok=True)
            return
        state = read_state(path, self.device, self.identity, IDENTITY_KINDS)
        self.model.load_state_dict(state["model"])
        if self.settings.motion:
            self.motion.load_state_dict(state["motion"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        _forget_later_lines(self.folder / METRICS_NAME, self.step)

    def _train_step(self, clips: Clips, image: ImageSpec) -> FrameDropMonitor:
        settings = self.settings
        pixels, blocks = clips.batch(batch_indices(self.step, len(clips), settings.batch, settings.seed))
        # a seed of its own for every step
        generator = torch.Generator().manual_seed((settings.seed + 1) * 1_000_003 + self.step)
        torch.manual_seed(generator.initial_seed())
        directions = draw_directions(self.model.config.latent_dim, settings.projections, generator)
        pixels, blocks = torch.from_numpy(pixels), torch.from_numpy(blocks).to(self.device)
        if settings.augment:
            pixels = augment(pixels, settings.augment, generator)
        for group in self.optimiser.param_groups:
            group["lr"] = settings.lr * learning_rate(self.step, settings.steps)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bf16):
            losses = training_loss(
                self.model,
                normalise_pixels(pixels.to(self.device), image),
                blocks,
                directions.to(self.device),
                settings.sigreg,
            )
        total = losses.total
        if settings.motion:
            total = total + settings.motion * self.motion(losses.latents, blocks)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        if not torch.isfinite(norm):
            raise UserError(
                f"training diverged at step {self.step}: lower --lr (it is {settings.lr:g}) or --sigreg "
                f"(it is {settings.sigreg:g}), and begin again with --restart."
            )
        self.optimiser.step()
        self.step += 1
        return losses

    def _report(self, window: list, losses: FrameDropMonitor) -> dict[str, float]:
        prediction, regulariser = (float(torch.stack(column).mean()) for column in zip(*window, strict=True))
        figures = {"prediction": prediction, "sigreg": regulariser, **latent_figures(losses.latents)}
        figures["ratio"] = prediction / max(figures["copy"], 1e-12)
        figures["lr"] = self.optimiser.param_groups[0]["lr"]
        return figures


def learning_rate(step: int, steps: int) -> float:
    """Return the share of the peak rate at ``step``: linear warm-up over 1 %, then cosine to 0."""
    warmup = max(1, round(_WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def batch_indices(step: int, clips: int, batch: int, seed: int) -> np.ndarray:
    """Return which clips step ``step`` sees: every epoch is one seeded permutation of all of them."""
    batch = min(batch, clips)
    epoch, position = divmod(step, clips // batch)
    order = np.random.default_rng([seed, epoch]).permutation(clips)
    return order[position * batch : (position + 1) * batch]


@contextlib.contextmanager
def _stop_requests():
    """Yield an event that SIGINT and SIGTERM set; outside the main thread nothing is intercepted."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_line(file, values: dict) -> None:
    file.write(json_text(values) + "\n")
    file.flush()


def _forget_later_lines(path: Path, step: int) -> None:
    """Drop the metrics of steps that a killed run had done after its last saved state."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue  # the line a kill cut short
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)


def _summary(figures: dict[str, float]) -> str:
    return (
        f"error/copy {figures['ratio']:.3f}, SIGReg {figures['sigreg']:.2f}, "
        f"std {figures['latent_std']:.2f}, rank {figures['effective_rank']:.1f}"
    )


def _announce(bar: tqdm, step: int, steps: int, figures: dict[str, float]) -> None:
    text = (
        f"step {step} of {steps}: held-out error {figures['prediction']:.4f}, copying {figures['copy']:.4f}, "
        f"ratio {figures['ratio']:.3f}, std {figures['latent_std']:.2f}, rank {figures['effective_rank']:.1f}"
    )
    if looks_collapsed(figures):
        text += "\nwarning: the latents are collapsing; raise --sigreg or lower --lr"
    bar.write(text, file=sys.stderr)

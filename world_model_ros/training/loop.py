"""The training loop: resumable, and the same whether it was interrupted or not.

Everything random in a step (batch, SIGReg's directions, disturbances, dropout) follows from the seed and
the step's number alone (and on the rank, where several processes share a batch), so a resumed run needs no
generator's state.
"""

import contextlib
import functools
import json
import math
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model_ros.data.clips import Clips
from world_model_ros.errors import UserError
from world_model_ros.model.config import ImageSpec, ModelConfig
from world_model_ros.model.encoder import normalise_pixels
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.model.sigreg import draw_directions, sigreg
from world_model_ros.training.metrics import latent_metrics, looks_collapsed, validate
from world_model_ros.training.metrics_log import MetricsLog
from world_model_ros.training.progress import Progress
from world_model_ros.training.ranks import Ranks, share_batch_norm
from world_model_ros.training.state import STATE_NAME, UNREADABLE, read_state, write_state

_SAVE_SECONDS = 60.0
_VALIDATION_CLIPS = 512
_WARMUP_SHARE = 0.01
_APART = 1_000_000_000_039  # between the seeds of two ranks

# The disturbances of frames, see augment().
NOISE = 0.10  # largest standard deviation, of the full range
BRIGHTNESS = 0.4  # largest change of the gain
BALANCE = 0.2  # largest change of a channel's gain
BLUR = 0.02  # largest standard deviation, of the picture's side
PATCH = 0.33  # largest side of an occluding rectangle, of the picture's side


@dataclass(frozen=True)
class TrainingSettings:
    """Settings that determine the result of a training; a run is resumed only with the same ones."""

    steps: int = 2000
    batch: int = 128
    lr: float = 1e-3
    sigreg: float = 0.09  # weight of the regulariser, belongs to batches of 128
    projections: int = 1024
    motion: float = 0.0  # weight of a linear map from latents' change to actions, see Motion
    augment: float = 0.0  # probability of each disturbance of a frame
    seed: int = 0
    weight_decay: float = 1e-3
    clip: float = 1.0
    bf16: bool = False
    report_every: int = 20  # steps between two lines of the metrics file
    validate_every: int = 250


IDENTITY_KINDS = {"model": ModelConfig, "settings": TrainingSettings}


def identity_of(config: ModelConfig, settings: TrainingSettings, more: dict) -> dict:
    """Return what identifies a training, as read back from JSON; ``more`` describes its data."""
    return json.loads(json.dumps({"model": asdict(config), "settings": asdict(settings), **more}))


class LossTerms(NamedTuple):
    """``total`` = ``prediction`` + weight * ``sigreg``, and the latents (B, T, D) they came from."""

    total: Tensor
    prediction: Tensor
    sigreg: Tensor
    latents: Tensor


def training_loss(
    model: LeWorldModel,
    pixels: Tensor,
    blocks: Tensor,
    directions: Tensor,
    weight: float,
    ranks: Ranks | None = None,
) -> LossTerms:
    """Return the losses of clips (paper, 3): prediction error plus one regulariser.

    pixels (B, T, 3, H, W) normalised, blocks (B, T, A), T = history + 1. The prediction error is the mean
    square over all predicted positions; gradients flow through the prediction and through its target. The
    block leaving the last frame is not used.

    With ``ranks`` the clips are this rank's part of a batch: the prediction error is that of this part,
    ``sigreg`` that of the batch; the mean of the ranks' gradients is the gradient of the batch.
    """
    ranks = ranks or Ranks()
    latents = model.encode(pixels)
    predicted = model.predict(latents[:, :-1], blocks[:, :-1])
    prediction = (predicted.float() - latents[:, 1:].float()).square().mean()
    regulariser = sigreg(latents.transpose(0, 1), directions, mean_=ranks.mean_, processes=ranks.size)
    return LossTerms(prediction + weight * regulariser, prediction, regulariser, latents)


class Motion(nn.Module):
    """A third, optional term: a linear map from latents' change to the summed actions between two frames.

    In a latent that predicts well the robot's position lies along curves: an MLP finds it, a linear probe
    does not. A position changes by the sum of the known velocities, so a linear map that predicts the
    actions between any two frames of a clip from the difference of their latents straightens these curves.
    Only training has this map.
    """

    def __init__(self, latent_dim: int, action_dim: int):
        super().__init__()
        self.change = nn.Linear(latent_dim, action_dim, bias=False)
        self.drift = nn.Parameter(torch.zeros(action_dim))  # of every model step: z-scores have a mean of 0

    def forward(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Return the mean square error, a scalar, over all pairs of frames of clips.

        latents (B, T, D), blocks (B, T, A) z-scored, block t leaving frame t, the last one not used. A
        block counts as the mean over its control steps.
        """
        width = len(self.drift)
        steps = blocks[:, :-1].unflatten(-1, (-1, width)).mean(-2)
        places = torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(1)], dim=1)
        first, second = torch.tensor(list(combinations(range(latents.shape[1]), 2))).T.to(latents.device)
        apart = (second - first)[:, None].to(latents.dtype)
        predicted = self.change((latents[:, second] - latents[:, first]).float()) + apart * self.drift
        return (predicted - (places[:, second] - places[:, first])).square().mean()


class TrainingInterruptedError(Exception):
    """Training was asked to stop; its state is on disk."""


class TrainingRun:
    """A model, its optimiser and the folder that holds their state and the metrics file.

    ``identity`` says what is trained on what; a state with another identity is refused (UserError), but the
    number of steps may differ: the learning rate follows the new number from then on (``schedule``).
    ``block`` is the number of control steps in an action block. ``start`` are weights to begin with
    instead of random ones. Of several ``ranks`` the first alone reads and writes the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        config: ModelConfig,
        settings: TrainingSettings,
        device: str = "cpu",
        identity: dict | None = None,
        block: int = 1,
        start: dict[str, Tensor] | None = None,
        ranks: Ranks | None = None,
    ):
        self.folder = Path(folder)
        self.settings = settings
        self.ranks = ranks or Ranks()
        self.device = torch.device(device)
        self.identity = identity_of(config, settings, identity or {})
        torch.manual_seed(settings.seed)
        self.model = LeWorldModel(config).to(self.device)
        if start is not None:
            self.model.load_state_dict(start)
        if self.ranks.size > 1:
            share_batch_norm(self.model, self.ranks)
        self.motion = Motion(config.latent_dim, config.action_dim // block).to(self.device)
        learning = [self.model, self.motion] if settings.motion else [self.model]
        self.parameters = [p for module in learning for p in module.parameters()]
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._ahead = self._coming = None  # the thread that fetches the next batch, and that batch
        if self.device.type == "cuda":
            self._ahead, self._beside = ThreadPoolExecutor(1), torch.cuda.Stream(self.device)
        self.step = 0
        self.seconds = 0.0  # spent training, over all interruptions
        self.schedule = [[0, settings.steps]]  # from which step on, for how many steps in all
        self._resume()

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.settings.steps

    def train(self, clips: Clips, validation: Clips, image: ImageSpec) -> None:
        """Train up to the last step, with a progress bar on terminals and lines elsewhere.

        On SIGINT or SIGTERM to any rank the state is saved and TrainingInterruptedError raised. UserError
        where the folder cannot be made, and where the loss stops being finite; the last good state stays.
        """
        settings, first = self.settings, self.ranks.rank == 0
        chosen = validation.some(_VALIDATION_CLIPS, settings.seed)
        begun = time.monotonic() - self.seconds
        saved = reported = time.monotonic()
        window = []
        self.model.train()
        if first and self.finished and self.schedule[-1][0] == self.step:
            self.save()  # it ends earlier than it was to: the state says so too
        with (
            _stop_requests() as stop,
            self._log() as log,
            Progress("training", settings.steps, self.step, leave=True) as progress,
        ):
            while not self.finished:
                losses, stopping = self._train_step(clips, image, stop)
                text = ""
                if first:
                    window.append((losses.prediction.detach(), losses.sigreg.detach()))
                if first and (self.step % settings.report_every == 0 or self.finished):
                    now = time.monotonic()
                    metrics = self._report(window, losses)
                    metrics["steps_per_second"] = len(window) / max(now - reported, 1e-9)
                    window, reported = [], now
                    log.report(self.step, metrics)
                    text = _summary(metrics)
                progress.update(text)
                if first and (self.step % settings.validate_every == 0 or self.finished):
                    metrics = validate(self.model, validation, image, chosen)
                    log.validation(self.step, metrics)
                    _announce(progress, metrics)
                if first and (time.monotonic() - saved > _SAVE_SECONDS or self.finished or stopping):
                    saved = time.monotonic()
                    self.seconds = saved - begun
                    self.save()
                if stopping and not self.finished:
                    self.ranks.from_first(None)  # the others end when the state is saved
                    raise TrainingInterruptedError
        self.model.eval()

    def _log(self) -> contextlib.AbstractContextManager:
        if self.ranks.rank:
            return contextlib.nullcontext()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return MetricsLog(self.folder, self.step)
        except OSError as error:
            raise UserError(
                f"--run {self.folder} cannot be made ({error.strerror}): choose another place."
            ) from None

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
                "schedule": self.schedule,
            },
        )

    def _resume(self) -> None:
        path = self.folder / STATE_NAME
        state = None
        if self.ranks.rank == 0 and path.exists():
            state = read_state(path, torch.device("cpu"), self.identity, IDENTITY_KINDS)
        state = self.ranks.from_first(state)
        if state is None:
            return
        try:
            self.model.load_state_dict(state["model"])
            if self.settings.motion:
                self.motion.load_state_dict(state["motion"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            steps = json.loads(state["identity"])["settings"]["steps"]
            schedule = [[int(first), int(count)] for first, count in state.get("schedule", [[0, steps]])]
        except (*UNREADABLE, AttributeError):  # it says that it belongs to this training, and does not fit it
            raise UserError(
                f"{path} does not hold what it says: train with --restart to begin again, or choose another "
                "--run."
            ) from None
        self._change_steps(schedule)

    def _change_steps(self, schedule: list[list[int]]) -> None:
        """Go on with ``settings.steps`` after an earlier ``schedule``; UserError where more are done."""
        steps = self.settings.steps
        if steps < self.step:
            raise UserError(
                f"{self.folder} has {self.step} steps done: give --steps {self.step} or more, or train with "
                "--restart to begin again, or choose another --run."
            )
        # a number of steps that no step was trained with leaves no trace
        self.schedule = [entry for entry in schedule if entry[0] < self.step] or [[0, steps]]
        if self.schedule[-1][1] != steps:
            self.schedule.append([self.step, steps])

    def _train_step(self, clips: Clips, image: ImageSpec, stop: threading.Event) -> tuple[LossTerms, bool]:
        """Take a step; return its losses, and whether this or another rank was asked to stop (``stop``)."""
        settings, ranks = self.settings, self.ranks
        pixels, blocks = self._batch(clips)
        # another seed for every step; ranks share the directions, but not disturbances and dropout
        seed = (settings.seed + 1) * 1_000_003 + self.step
        generator = torch.Generator().manual_seed(seed)
        directions = draw_directions(self.model.config.latent_dim, settings.projections, generator)
        if ranks.rank:
            generator.manual_seed(seed + ranks.rank * _APART)
        torch.manual_seed(generator.initial_seed())
        if settings.augment:
            pixels = augment(pixels, settings.augment, generator)
        for group in self.optimiser.param_groups:
            group["lr"] = settings.lr * learning_rate(self.step, settings.steps)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bf16):
            losses = training_loss(
                self.model,
                normalise_pixels(pixels, image),
                blocks,
                directions.to(self.device),
                settings.sigreg,
                ranks,
            )
        total = losses.total
        if settings.motion:
            total = total + settings.motion * self.motion(losses.latents, blocks)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        stopping = torch.tensor(float(stop.is_set()), device=self.device)
        prediction, stopping = ranks.mean_gradients(self.parameters, losses.prediction, stopping)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        if not torch.isfinite(norm):
            raise UserError(
                f"training diverged at step {self.step}: lower --lr (it is {settings.lr:g}) or --sigreg "
                f"(it is {settings.sigreg:g}), and begin again with --restart."
            )
        self.optimiser.step()
        self.step += 1
        return losses._replace(prediction=prediction), bool(stopping)

    def _batch(self, clips: Clips) -> tuple[Tensor, Tensor]:
        """Return this step's pixels uint8 (B, T, H, W, 3) and blocks (B, T, A), on the device.

        On CUDA a thread fetches those of the next step meanwhile.
        """
        if self._ahead is None:
            return self._fetch(clips, self.step)
        if self._coming is None:
            self._coming = self._ahead.submit(self._fetch, clips, self.step)
        pixels, blocks = self._coming.result()
        self._coming = None
        if self.step + 1 < self.settings.steps:
            self._coming = self._ahead.submit(self._fetch, clips, self.step + 1)
        for values in (pixels, blocks):
            values.record_stream(torch.cuda.current_stream(self.device))
        return pixels, blocks

    def _fetch(self, clips: Clips, step: int) -> tuple[Tensor, Tensor]:
        indices = batch_indices(step, len(clips), self.settings.batch, self.settings.seed)
        pixels, blocks = map(torch.from_numpy, clips.batch(self.ranks.part(indices)))
        if self._ahead is None:
            return pixels.to(self.device), blocks.to(self.device)
        with torch.cuda.stream(self._beside):  # while the step before is computed
            pixels, blocks = pixels.to(self.device), blocks.to(self.device)
            self._beside.synchronize()
        return pixels, blocks

    def _report(self, window: list, losses: LossTerms) -> dict[str, float]:
        prediction, regulariser = (float(torch.stack(column).mean()) for column in zip(*window, strict=True))
        metrics = {"prediction": prediction, "sigreg": regulariser, **latent_metrics(losses.latents)}
        metrics["ratio"] = prediction / max(metrics["copy"], 1e-12)
        metrics["lr"] = self.optimiser.param_groups[0]["lr"]
        return metrics


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
    return _order(clips, seed, epoch)[position * batch : (position + 1) * batch]


@functools.lru_cache(maxsize=1)  # drawn anew it would take 9 ms of each step with 300,000 clips
def _order(clips: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(clips)


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


def _summary(metrics: dict[str, float]) -> str:
    return (
        f"error/copy {metrics['ratio']:.3f}, SIGReg {metrics['sigreg']:.2f}, "
        f"std {metrics['latent_std']:.2f}, rank {metrics['effective_rank']:.1f}"
    )


def _announce(progress: Progress, metrics: dict[str, float]) -> None:
    text = (
        f"step {progress.done} of {progress.total}: held-out error {metrics['prediction']:.4f}, copying "
        f"{metrics['copy']:.4f}, ratio {metrics['ratio']:.3f}, std {metrics['latent_std']:.2f}, "
        f"rank {metrics['effective_rank']:.1f}; {progress.speed}"
    )
    if looks_collapsed(metrics):
        text += "\nwarning: the latents are collapsing; raise --sigreg or lower --lr"
    progress.write(text)


def augment(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return uint8 pixels (..., H, W, 3) whose frames get each disturbance with probability ``share``.

    Gain and white balance, blur, an occluding rectangle of one colour, and pixel noise, in the order in
    which a scene, a lens and a sensor make them; the strengths are uniform up to NOISE, BRIGHTNESS, BALANCE,
    BLUR and PATCH. So latents do not depend on the camera's noise and light.

    Every frame of a clip is disturbed independently. Changes from frame to frame cannot be predicted, so the
    prediction error makes the encoder ignore them; a disturbance that lasted the whole clip would be encoded.
    """
    frames = pixels.flatten(0, -4).float()
    count, side = len(frames), frames.shape[-2]

    def chosen() -> Tensor:
        return (torch.rand(count, generator=generator) < share).nonzero().squeeze(1)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    some = chosen()
    gain = 1 + BRIGHTNESS * (2 * uniform(len(some), 1) - 1) + BALANCE * (2 * uniform(len(some), 3) - 1)
    frames[some] *= gain[:, None, None].to(frames.device)
    some = chosen()
    frames[some] = _blurred(frames[some], BLUR * side * uniform(len(some)).clamp_min(0.05))
    some = chosen()
    _occlude(frames, some, uniform(len(some), 2, 2), 255 * uniform(len(some), 3))
    some = chosen()
    noise = torch.randn(frames[some].shape, generator=generator).to(frames.device)
    strength = 255 * NOISE * uniform(len(some))
    frames[some] += noise * strength[:, None, None, None].to(frames.device)
    return frames.round_().clamp_(0, 255).to(torch.uint8).view(pixels.shape)


def _blurred(frames: Tensor, sigma: Tensor) -> Tensor:
    """Convolve frames (N, H, W, 3) with a Gaussian of ``sigma`` (N,) pixels each."""
    if not len(frames):
        return frames
    count, height, width, channels = frames.shape
    reach = max(1, int(3 * float(sigma.max())))
    taps = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(frames.device).repeat_interleave(channels, 0)
    # a group per frame and channel: each has its own kernel
    planes = frames.permute(0, 3, 1, 2).reshape(1, count * channels, height, width)
    for shape in ((-1, 1, 2 * reach + 1, 1), (-1, 1, 1, 2 * reach + 1)):
        weight = kernel.view(shape)
        pad = (0, 0, reach, reach) if shape[2] > 1 else (reach, reach, 0, 0)
        planes = F.conv2d(F.pad(planes, pad, mode="replicate"), weight, groups=count * channels)
    return planes.view(count, channels, height, width).permute(0, 2, 3, 1)


def _occlude(frames: Tensor, some: Tensor, placed: Tensor, colours: Tensor) -> None:
    """Paint a rectangle of ``colours`` (n, 3) into frames ``some``, in place.

    placed (n, 2, 2) in [0, 1): its place and its size, along height and width.
    """
    side = frames.shape[-2]
    sizes = (PATCH * side * placed[:, 1]).ceil().long()
    corners = (placed[:, 0] * (side - sizes + 1)).long()
    pieces = zip(some.tolist(), corners.tolist(), (corners + sizes).tolist(), colours, strict=True)
    for frame, (top, left), (bottom, right), colour in pieces:
        frames[frame, top:bottom, left:right] = colour.to(frames.device)

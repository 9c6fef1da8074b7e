"""LeWorldModel (Maes et al. 2026, arXiv 2603.19312): a world model without pixels, z' = pred(z, a).

An encoder turns a frame into a latent; a predictor turns the latents of the last frames and the action
blocks that left them into the next latent. Both are trained together by the prediction error and
SIGReg (sigreg.py), nothing else. Planning happens in latents alone: encode the camera and the goal,
roll candidates out, compare the ends.

Shapes: B batch, S candidates, T frames of context, H horizon in blocks, D latent, A one action block
(control steps x action dimensions, z-scored).
"""

import torch
from torch import Tensor, nn

from world_model_ros.model.config import ModelConfig
from world_model_ros.model.decoder import Decoder
from world_model_ros.model.encoder import ConvEncoder, VisionTransformer
from world_model_ros.model.heads import InverseDynamics, Landmarks, ObjectDistance, Risk, TemporalDistance
from world_model_ros.model.predictor import Predictor


class Predicting(nn.Module):
    """What predicts latents with an ``action_encoder``, a ``predictor`` and a ``pred_proj`` of its own."""

    config: ModelConfig

    def add_predictor(self, config: ModelConfig) -> None:
        """Make the three parts."""
        self.config = config
        self.action_encoder = _ActionEncoder(config)
        self.predictor = Predictor(config)
        self.pred_proj = _Projector(config.latent_dim, config.projector_hidden, config.latent_dim)

    def encode_actions(self, actions: Tensor) -> Tensor:
        """Turn normalised action blocks (B, T, A) into embeddings (B, T, D), each on its own."""
        return self.action_encoder(actions)

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Predict from latents (B, T, D) and the blocks leaving them (B, T, A), T <= history.

        Entry t of the result (B, T, D) is the latent after action t, seen from frames up to t (causal).
        Raises ValueError for other shapes.
        """
        if latents.shape[:2] != actions.shape[:2] or not 1 <= latents.shape[1] <= self.config.history:
            raise ValueError(
                f"latents {tuple(latents.shape)} and actions {tuple(actions.shape)} must agree in batch and "
                f"time, with 1 to {self.config.history} frames"
            )
        conditions = self.predictor.conditions(self.encode_actions(actions))
        return self._project(self.predictor(latents, conditions))

    def rollout(self, latents: Tensor, history_actions: Tensor, candidates: Tensor) -> Tensor:
        """Imagine every candidate: (B, S, H, A) -> the latents after each of its blocks (B, S, H, D).

        latents (B, T, D) are the context, history_actions (B, T - 1, A) the blocks executed between
        them; candidates begin with the block that leaves the last frame. The predictor sees a window of
        the last ``history`` frames (paper, 4). For a model in evaluation mode; planning uses the same in
        fewer operations (planning/fast_rollout.py). Raises ValueError for other shapes.
        """
        batch, samples, horizon, _ = candidates.shape
        context = latents.shape[1]
        if history_actions.shape[:2] != (batch, context - 1) or len(latents) != batch:
            raise ValueError(
                f"latents {tuple(latents.shape)} need {context - 1} history actions and {batch} contexts, "
                f"got {tuple(history_actions.shape)} for candidates {tuple(candidates.shape)}"
            )
        frames = latents.repeat_interleave(samples, 0)
        actions = torch.cat([history_actions.repeat_interleave(samples, 0), candidates.flatten(0, 1)], dim=1)
        for _ in range(horizon):
            end = frames.shape[1]
            window = slice(max(0, end - self.config.history), end)
            following = self.predict(frames[:, window], actions[:, window])[:, -1:]
            frames = torch.cat([frames, following], dim=1)
        return frames[:, context:].unflatten(0, (batch, samples))

    def _project(self, predicted: Tensor) -> Tensor:
        return self.pred_proj(predicted.flatten(0, 1)).unflatten(0, predicted.shape[:2])


class Member(Predicting):
    """A further predictor of the latents of a model's encoder, which learns after all the rest.

    Predictors that have begun with other weights err in other places, and a plan that relies on an error of
    one is not cheap for the others.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.add_predictor(config)


class LeWorldModel(Predicting):
    """Encoder, action encoder, predictor; every latent passes through one of two projectors.

    Where they are, ``temporal`` and ``object`` judge pairs of latents, ``inverse`` guesses the actions
    between them and ``risk`` says whether an event has happened; ``decoder`` shows a latent to people;
    ``ensemble`` are further predictors, ``landmarks`` recorded latents. They come after all the rest.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.encoder = VisionTransformer(config) if config.encoder == "vit" else ConvEncoder(config)
        self.projector = _Projector(config.encoder_width, config.projector_hidden, config.latent_dim)
        self.add_predictor(config)
        width, hidden = config.latent_dim, (config.temporal_hidden, config.inverse_hidden)
        self.temporal = TemporalDistance(width, hidden[0]) if hidden[0] else None
        self.inverse = InverseDynamics(width, config.action_dim, hidden[1]) if hidden[1] else None
        self.object = None
        if config.object_hidden:
            self.object = ObjectDistance(width, config.object_hidden, config.object_code)
        picture = config.decoder_size, config.decoder_width
        self.decoder = Decoder(width, *picture) if config.decoder_width else None
        self.risk = Risk(width, config.risk_hidden) if config.risk_hidden else None
        self.ensemble = nn.ModuleList(Member(config) for _ in range(config.ensemble))
        self.landmarks = Landmarks(config.landmarks, width) if config.landmarks else None

    def encode(self, pixels: Tensor) -> Tensor:
        """Turn normalised pixels (..., 3, H, W) into latents (..., D)."""
        lead, image = pixels.shape[:-3], pixels.shape[-3:]
        return self.projector(self.encoder(pixels.reshape(-1, *image))).reshape(*lead, -1)


class _Projector(nn.Module):
    """MLP with BatchNorm, which lets latents reach the distribution that SIGReg asks for (paper, 3)."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, outputs)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)


class _ActionEncoder(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        mixed = config.action_mixed or config.action_dim
        self.patch_embed = nn.Conv1d(config.action_dim, mixed, kernel_size=1)
        self.embed = nn.Sequential(
            nn.Linear(mixed, config.action_hidden),
            nn.SiLU(),
            nn.Linear(config.action_hidden, config.latent_dim),
        )

    def forward(self, actions: Tensor) -> Tensor:
        # a convolution of kernel 1 is a linear layer: no transposing back and forth
        mixed = nn.functional.linear(actions, self.patch_embed.weight.squeeze(-1), self.patch_embed.bias)
        return self.embed(mixed)

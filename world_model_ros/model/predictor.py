"""The predictor: a causal transformer over latents, conditioned on actions by AdaLN-zero (paper, 3)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model_ros.model.config import ModelConfig

Pair = tuple[Tensor, Tensor]  # keys and values


@dataclass
class Kept:
    """Keys and values of the tokens that a window holds already, (B, heads, T, head dim), of each layer.

    Causal attention never changes them, so whoever appends to the window need not compute them again.
    Position embeddings count from the window's start: once the window slides, nothing of it holds.
    """

    layers: list[Pair]

    @property
    def length(self) -> int:
        """How many tokens there are."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def repeated(self, samples: int) -> "Kept":
        """Return the same for ``samples`` candidates that share this past: (B * samples, ...)."""
        return Kept([tuple(x.repeat_interleave(samples, 0) for x in pair) for pair in self.layers])


class Predictor(nn.Module):
    """Latents and action embeddings of a window of at most ``history`` frames to next latents."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, config.history, config.latent_dim))
        self.transformer = _Transformer(config)

    def conditions(self, actions: Tensor) -> list[Tensor]:
        """Turn action embeddings (B, T, D) into each layer's shifts, scales and gates (B, T, 6, width).

        They depend on the action alone, so a rollout computes them once, not once a window.
        """
        embedded = self.transformer.cond_proj(actions)
        return [layer.condition(embedded) for layer in self.transformer.layers]

    def forward(
        self,
        latents: Tensor,
        conditions: list[Tensor],
        last_only: bool = False,
        kept: Kept | None = None,
    ) -> Tensor:
        """Predict (B, T, D) from latents (B, T, D) and ``conditions`` of the same T.

        ``last_only`` returns the last entry alone, (B, 1, D), and skips the work for the others. With
        ``kept``, latents follow the tokens in it, and are added to it.
        """
        start = kept.length if kept else 0
        positions = self.pos_embedding[:, start : start + latents.shape[1]]
        tokens = self.transformer.input_proj(latents + positions)
        past = kept.layers if start else [None] * len(conditions)
        pairs = []
        for layer, condition, before in zip(self.transformer.layers, conditions, past, strict=True):
            last = last_only and layer is self.transformer.layers[-1]
            tokens, pair = layer(tokens, condition, last, before)
            pairs.append(pair)
        if kept:
            kept.layers = pairs
        return self.transformer.output_proj(self.transformer.norm(tokens))


class _Transformer(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        width, outer = config.predictor_width, config.latent_dim
        self.input_proj, self.cond_proj, self.output_proj = (
            (nn.Identity(), nn.Identity(), nn.Identity())
            if width == outer
            else (nn.Linear(outer, width), nn.Linear(outer, width), nn.Linear(width, outer))
        )
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.predictor_depth))
        self.norm = nn.LayerNorm(width)


class _Layer(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the action at its own position.

    The gates start at zero: an untrained layer is the identity (Peebles & Xie 2023).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.predictor_width
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = _Attention(config)
        self.mlp = _FeedForward(config)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        nn.init.zeros_(self.adaLN_modulation[1].weight)
        nn.init.zeros_(self.adaLN_modulation[1].bias)

    def condition(self, embedded: Tensor) -> Tensor:
        """Return shift, scale and gate of attention, then of the MLP: (B, T, 6, width)."""
        modulation = self.adaLN_modulation(embedded).unflatten(-1, (6, -1))
        modulation[..., 1::3, :] += 1  # the two scales are around one
        return modulation

    def forward(
        self, tokens: Tensor, condition: Tensor, last_only: bool = False, before: Pair | None = None
    ) -> tuple[Tensor, Pair]:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = condition.unbind(-2)
        context = torch.addcmul(shift, scale, self.norm1(tokens))
        if last_only:
            tokens = tokens[:, -1:]
            gate, mlp_shift, mlp_scale, mlp_gate = (x[:, -1:] for x in (gate, mlp_shift, mlp_scale, mlp_gate))
        attended, pair = self.attn(context, last_only, before)
        tokens = torch.addcmul(tokens, gate, attended)
        context = torch.addcmul(mlp_shift, mlp_scale, self.norm2(tokens))
        return torch.addcmul(tokens, mlp_gate, self.mlp(context)), pair


class _Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        width, inner = config.predictor_width, config.predictor_heads * config.predictor_head_dim
        self.heads, self.inner, self.dropout = config.predictor_heads, inner, config.dropout
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(config.dropout))

    def forward(
        self, tokens: Tensor, last_only: bool = False, before: Pair | None = None
    ) -> tuple[Tensor, Pair]:
        tokens = self.norm(tokens)
        if last_only:
            weight_q, weight_kv = self.to_qkv.weight.split([self.inner, 2 * self.inner])
            q = F.linear(tokens[:, -1:], weight_q)
            k, v = F.linear(tokens, weight_kv).chunk(2, dim=-1)
        else:
            q, k, v = self.to_qkv(tokens).chunk(3, dim=-1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        if before is not None:
            k, v = torch.cat([before[0], k], dim=2), torch.cat([before[1], v], dim=2)
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            dropout_p=self.dropout if self.training else 0.0,
            **_causal(q.shape[2], k.shape[2], q.device),
        )
        return self.to_out(mixed.transpose(1, 2).flatten(2)), (k, v)


def _causal(queries: int, keys: int, device: torch.device) -> dict:
    """Return how the last ``queries`` of ``keys`` tokens see each other and what came before."""
    if queries == 1:
        return {}  # the last token sees everything
    if queries == keys:
        return {"is_causal": True}
    return {"attn_mask": torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)}


class _FeedForward(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        width, hidden, dropout = config.predictor_width, config.predictor_mlp, config.dropout
        self.net = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens)

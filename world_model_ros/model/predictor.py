"""The predictor: a causal transformer over latents, conditioned on actions by AdaLN-zero (paper, 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model_ros.model.config import ModelConfig


class Predictor(nn.Module):
    """Latents and action embeddings of a window of at most ``history`` frames to next latents."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        embedding = torch.empty(1, config.history, config.latent_dim)
        if not embedding.is_meta:  # where torch would import sympy, half a second for each checkpoint loaded
            embedding.normal_()
        self.pos_embedding = nn.Parameter(embedding)
        self.transformer = _Transformer(config)

    def conditions(self, actions: Tensor) -> list[Tensor]:
        """Turn action embeddings (B, T, D) into each layer's shifts, scales and gates (B, T, 6, width)."""
        embedded = self.transformer.cond_proj(actions)
        return [layer.condition(embedded) for layer in self.transformer.layers]

    def forward(self, latents: Tensor, conditions: list[Tensor]) -> Tensor:
        """Predict (B, T, D) from latents (B, T, D) and ``conditions`` of the same T."""
        tokens = self.transformer.input_proj(latents + self.pos_embedding[:, : latents.shape[1]])
        for layer, condition in zip(self.transformer.layers, conditions, strict=True):
            tokens = layer(tokens, condition)
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

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = condition.unbind(-2)
        tokens = torch.addcmul(tokens, gate, self.attn(torch.addcmul(shift, scale, self.norm1(tokens))))
        context = torch.addcmul(mlp_shift, mlp_scale, self.norm2(tokens))
        return torch.addcmul(tokens, mlp_gate, self.mlp(context))


class _Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        width, inner = config.predictor_width, config.predictor_heads * config.predictor_head_dim
        self.heads, self.inner, self.dropout = config.predictor_heads, inner, config.dropout
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(config.dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(tokens)).chunk(3, dim=-1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


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

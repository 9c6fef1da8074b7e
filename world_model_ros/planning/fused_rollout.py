"""An optimisation that readers may skip: ``LeWorldModel.rollout`` on a GPU, in four kernels for each layer.

The tensors of planning are small: the plain rollout starts hundreds of operations one after the other, and
each takes longer to start than to compute. Here (Triton) a program of ``_attention`` does one head for some
candidates, up to its part of the output projection, and one of ``_mlp`` some of the hidden units, up to their
part of the output. In front of each, ``_prepare`` adds these parts up, in a fixed order, so that a rollout
gives the same numbers each time, and normalises and modulates what comes of it.

Matrix products take fp16 and add in fp32; residuals, norms, softmax and latents are fp32. What is saved
besides (keys and values, AdaLN, the past that candidates share) is that of planning/fast_rollout.py.

Shapes: S candidates or 1 where they share the past, F fresh tokens of a window, W the predictor's width,
D latent, A one action block. Memory is token by token: row f * S + s is token f of candidate s.
"""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from world_model_ros.model.config import ModelConfig
from world_model_ros.planning.fast_rollout import FastRollout, folded, pointwise

MOST_FRAMES = 3  # of the predictor's history, see _attention
_CHUNK = 64  # of a product's inner dimension, at a time
_HEAD_DIMS = (16, 32, 64, 128)
_LARGEST_ERROR = 0.05  # of a latent, in its root mean square; on an H100 it is 0.002 to 0.006


class Tiles(NamedTuple):
    """How the work of the kernels is divided: rows of a program, its warps, and hidden units of the MLP."""

    attention: int
    attention_warps: int
    mlp: int
    mlp_warps: int
    units: int
    stages: int = 3
    prepare: int = 4


# Measured on an H100 with 300 candidates and with 64: the fastest of a dozen for each kernel. For one token
# of a candidate, and for more. Those of few candidates need less than 99 KB of shared memory, which any GPU
# since 2020 has.
_TILES = Tiles(64, 4, 64, 8, 128), Tiles(16, 4, 128, 8, 128)
_TILES_OF_FEW = Tiles(16, 4, 16, 4, 64), Tiles(16, 4, 32, 4, 64)
_FEW = 128  # candidates
_ROOMY = 160 << 10  # bytes of shared memory a program, for the others


@triton.jit
def _normalised(x, inside, width: tl.constexpr, eps: tl.constexpr):
    centred = tl.where(inside, x - (tl.sum(x, 1) / width)[:, None], 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)[:, None]


@triton.jit(do_not_specialize=["rows", "candidates"])
def _prepare(
    x, written, parts, gate, cond, positions, normed, rows, candidates,
    width: tl.constexpr, padded: tl.constexpr, cond_width: tl.constexpr, split: tl.constexpr,
    modulated: tl.constexpr, eps: tl.constexpr, inner_eps: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Write tokens with what the kernel before has left to ``written``, and what goes into the next product.

    x, written and normed (rows, width), parts (split, rows, width), gate and cond (rows, ...). Where tokens
    enter the first layer, there are no parts yet, and positions (F, width) are added to them.
    """
    row, cols = tl.program_id(0) * tile + tl.arange(0, tile), tl.arange(0, padded)
    inside = (cols < width)[None, :]
    mask = (row < rows)[:, None] & inside
    at, of_cond = row[:, None] * width + cols[None, :], row[:, None] * cond_width + cols[None, :]
    tokens = tl.load(x + at, mask=mask, other=0.0)
    if split == 0:
        place = (row // candidates)[:, None] * width + cols[None, :]
        tokens += tl.load(positions + place, mask=mask, other=0.0)
    else:
        added = tl.zeros(tokens.shape, tl.float32)
        for i in tl.static_range(split):
            added += tl.load(parts + i * rows * width + at, mask=mask, other=0.0).to(tl.float32)
        tokens += tl.load(gate + of_cond, mask=mask, other=0.0).to(tl.float32) * added
    tl.store(written + at, tokens, mask=mask)
    tokens = _normalised(tokens, inside, width, eps)
    if modulated:
        shift = tl.load(cond + of_cond, mask=mask, other=0.0).to(tl.float32)
        scale = tl.load(cond + of_cond + width, mask=mask, other=0.0).to(tl.float32)
        tokens = _normalised(tokens * (1.0 + scale) + shift, inside, width, inner_eps)
    tl.store(normed + at, tokens.to(tl.float16), mask=mask)


@triton.jit
def _see(most, total, mixed, query, key, value):
    """Take one more token into a softmax that is computed as its tokens come."""
    score = tl.sum(query * key, 1)
    highest = tl.maximum(most, score)
    before, now = tl.exp(most - highest), tl.exp(score - highest)
    return highest, total * before + now, mixed * before[:, None] + now[:, None] * value


@triton.jit
def _see_kept(query, cache, row, ok, dims, cached, kept: tl.constexpr, shared, inner: tl.constexpr):
    most = tl.full(row.shape, float("-inf"), tl.float32)
    total = tl.zeros(row.shape, tl.float32)
    mixed = tl.zeros(query.shape, tl.float32)
    for i in tl.static_range(kept):
        of = i * cached + tl.where(i < shared, 0, row)
        at = of[:, None] * (2 * inner) + dims[None, :]
        key = tl.load(cache + at, mask=ok[:, None], other=0.0).to(tl.float32)
        value = tl.load(cache + at + inner, mask=ok[:, None], other=0.0).to(tl.float32)
        most, total, mixed = _see(most, total, mixed, query, key, value)
    return most, total, mixed


@triton.jit
def _keep(cache, slot, key, value, row, ok, dims, cached, inner: tl.constexpr):
    at = (slot * cached + row)[:, None] * (2 * inner) + dims[None, :]
    tl.store(cache + at, key.to(tl.float16), mask=ok[:, None])
    tl.store(cache + at + inner, value.to(tl.float16), mask=ok[:, None])


@triton.jit
def _put_out(total, mixed, back, bias, parts, at, ok, cols, width: tl.constexpr):
    """Write a head's part of the output projection of values (tile, head_dim); back (head_dim, padded)."""
    product = tl.dot((mixed / total[:, None]).to(tl.float16), back) + bias
    mask = ok[:, None] & (cols < width)[None, :]
    tl.store(parts + at[:, None] * width + cols[None, :], product.to(tl.float16), mask=mask)


@triton.jit(do_not_specialize=["candidates", "cached", "shared", "keeps"])
def _attention(
    normed, qkv, qkv_bias, out, out_bias, cache, parts, candidates, cached, shared, keeps,
    fresh: tl.constexpr, kept: tl.constexpr, last_only: tl.constexpr, width: tl.constexpr,
    padded: tl.constexpr, chunk: tl.constexpr, inner: tl.constexpr, head_dim: tl.constexpr,
    tile: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """Do the attention of one head for a tile of candidates, with its part of the output projection.

    normed (F, S, width); cache (history, cached, 2, inner) keys and values, of which ``kept`` tokens are
    there, the first ``shared`` of them common to all candidates; ``keeps`` is whether the fresh ones are
    added; parts (heads, F or 1, S, width).
    """
    row, head = tl.program_id(0) * tile + tl.arange(0, tile), tl.program_id(1)
    ok, dims, outs = row < candidates, head * head_dim + tl.arange(0, head_dim), tl.arange(0, padded)
    # Asked for long before they are needed, so that nothing waits for them.
    back = tl.load(out + dims[:, None] * width + outs[None, :], mask=(outs < width)[None, :], other=0.0)
    back_bias = tl.load(out_bias + outs, mask=(outs < width) & (head == 0), other=0.0)[None, :]
    to_query = tl.load(qkv_bias + dims)[None, :]
    to_key = tl.load(qkv_bias + inner + dims)[None, :]
    to_value = tl.load(qkv_bias + 2 * inner + dims)[None, :]
    q0 = tl.zeros((tile, head_dim), tl.float32)
    k0, v0, q1, k1, v1, q2, k2, v2 = q0, q0, q0, q0, q0, q0, q0, q0
    for start in tl.range(0, width, chunk, num_stages=stages):
        cols = start + tl.arange(0, chunk)
        weights = qkv + dims[None, :] * width + cols[:, None]
        of_query = tl.load(weights)
        of_key = tl.load(weights + inner * width)
        of_value = tl.load(weights + 2 * inner * width)
        at = row[:, None] * width + cols[None, :]
        n0 = tl.load(normed + at, mask=ok[:, None], other=0.0)
        k0, v0 = tl.dot(n0, of_key, k0), tl.dot(n0, of_value, v0)
        if fresh == 1 or not last_only:
            q0 = tl.dot(n0, of_query, q0)
        if fresh > 1:
            n1 = tl.load(normed + candidates * width + at, mask=ok[:, None], other=0.0)
            k1, v1 = tl.dot(n1, of_key, k1), tl.dot(n1, of_value, v1)
            if fresh == 2 or not last_only:
                q1 = tl.dot(n1, of_query, q1)
        if fresh > 2:
            n2 = tl.load(normed + 2 * candidates * width + at, mask=ok[:, None], other=0.0)
            k2, v2 = tl.dot(n2, of_key, k2), tl.dot(n2, of_value, v2)
            q2 = tl.dot(n2, of_query, q2)
    q0, k0, v0 = q0 + to_query, k0 + to_key, v0 + to_value
    q1, k1, v1 = q1 + to_query, k1 + to_key, v1 + to_value
    q2, k2, v2 = q2 + to_query, k2 + to_key, v2 + to_value
    if fresh < 3:  # a whole window is not gone on with
        stored = ok & (keeps != 0)
        _keep(cache, kept, k0, v0, row, stored, dims, cached, inner)
        if fresh > 1:
            _keep(cache, kept + 1, k1, v1, row, stored, dims, cached, inner)
    left = (head * (1 if last_only else fresh)) * candidates + row
    if fresh == 1 or not last_only:
        most, total, mixed = _see_kept(q0, cache, row, ok, dims, cached, kept, shared, inner)
        most, total, mixed = _see(most, total, mixed, q0, k0, v0)
        _put_out(total, mixed, back, back_bias, parts, left, ok, outs, width)
        left += candidates
    if (fresh == 2 and last_only) or (fresh > 1 and not last_only):
        most, total, mixed = _see_kept(q1, cache, row, ok, dims, cached, kept, shared, inner)
        most, total, mixed = _see(most, total, mixed, q1, k0, v0)
        most, total, mixed = _see(most, total, mixed, q1, k1, v1)
        _put_out(total, mixed, back, back_bias, parts, left, ok, outs, width)
        left += candidates
    if fresh > 2:
        most, total, mixed = _see_kept(q2, cache, row, ok, dims, cached, kept, shared, inner)
        most, total, mixed = _see(most, total, mixed, q2, k0, v0)
        most, total, mixed = _see(most, total, mixed, q2, k1, v1)
        most, total, mixed = _see(most, total, mixed, q2, k2, v2)
        _put_out(total, mixed, back, back_bias, parts, left, ok, outs, width)


@triton.jit(do_not_specialize=["rows"])
def _mlp(
    normed, enter, enter_bias, out, out_bias, parts, rows,
    width: tl.constexpr, chunk: tl.constexpr, outputs: tl.constexpr, padded: tl.constexpr,
    units: tl.constexpr, tile: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """Do ``units`` hidden units of an MLP for a tile of rows.

    normed (rows, width); parts (programs along the hidden units, rows, outputs).
    """
    row, part = tl.program_id(0) * tile + tl.arange(0, tile), tl.program_id(1)
    ok, unit = row < rows, part * units + tl.arange(0, units)
    outs = tl.arange(0, padded)
    back = tl.load(out + unit[:, None] * outputs + outs[None, :], mask=(outs < outputs)[None, :], other=0.0)
    back_bias = tl.load(out_bias + outs, mask=(outs < outputs) & (part == 0), other=0.0)[None, :]
    hidden_bias = tl.load(enter_bias + unit)[None, :]
    hidden = tl.zeros((tile, units), tl.float32)
    for start in tl.range(0, width, chunk, num_stages=stages):
        cols = start + tl.arange(0, chunk)
        tokens = tl.load(normed + row[:, None] * width + cols[None, :], mask=ok[:, None], other=0.0)
        hidden = tl.dot(tokens, tl.load(enter + unit[None, :] * width + cols[:, None]), hidden)
    hidden += hidden_bias
    active = 0.5 * hidden * (1.0 + tl.erf(hidden * 0.7071067811865476))
    product = tl.dot(active.to(tl.float16), back) + back_bias
    at = (part * rows + row)[:, None] * outputs + outs[None, :]
    mask = ok[:, None] & (outs < outputs)[None, :]
    tl.store(parts + at, product.to(parts.dtype.element_ty), mask=mask)


class _Left(NamedTuple):
    """What a kernel leaves to the next one: tokens (F, S, W), and parts that are still to be added."""

    tokens: Tensor
    parts: Tensor | None = None  # (split, F, S, W)
    gate: Tensor | None = None  # (F, S, ...)

    def last(self) -> "_Left":
        """Return the last token's; the parts are of it alone already."""
        return self._replace(tokens=self.tokens[-1:], gate=self.gate[-1:])


class FusedRollout:
    """The rollout of a LeWorldModel in evaluation mode on a GPU, with its weights as they are now.

    Raises ValueError for a model that sees more than MOST_FRAMES frames or whose sizes do not fit.
    """

    def __init__(self, model: nn.Module):
        config, transformer = model.config, model.predictor.transformer
        if config.history > MOST_FRAMES:
            raise ValueError(f"{config.history} frames are more than {MOST_FRAMES}")
        for name in ("predictor_width", "latent_dim", "predictor_mlp", "projector_hidden"):
            if getattr(config, name) % _CHUNK:
                raise ValueError(f"{name} is no multiple of {_CHUNK}")
        if config.predictor_head_dim not in _HEAD_DIMS:
            raise ValueError(f"predictor_head_dim is none of {_HEAD_DIMS}")
        self.history, self.width = config.history, config.predictor_width
        self.inner = config.predictor_heads * config.predictor_head_dim
        embed, enter = model.action_encoder.embed, pointwise(model.action_encoder.patch_embed)
        self.actions = [_halves(enter, embed[0]), _halves(embed[2], transformer.cond_proj)]
        modulations = [layer.adaLN_modulation[1] for layer in transformer.layers]
        self.modulation = [torch.cat([getattr(m, n) for m in modulations]).half() for n in ("weight", "bias")]
        self.enter, self.positions = None, model.predictor.pos_embedding[0]  # (history, W)
        if isinstance(transformer.input_proj, nn.Linear):
            self.enter = transformer.input_proj.weight, transformer.input_proj.bias
            self.positions = F.linear(self.positions, self.enter[0])
        self.layers = [_Layer(layer) for layer in transformer.layers]
        hidden, normed, activation, outer = model.pred_proj.net
        leave = [transformer.output_proj] if isinstance(transformer.output_proj, nn.Linear) else []
        self.leave = _Mlp(transformer.norm, [*leave, hidden, normed, activation], outer)
        self.single = FastRollout(model)
        self._check(config)

    def _check(self, config: ModelConfig) -> None:
        """Raise RuntimeError where the kernels do not compute what single operations do on this GPU.

        This compiles all of them, which takes some seconds the first time; triton keeps the result.
        """
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(self.positions.device)

        for samples in (1, _FEW + 1):
            for context in range(1, self.history + 1):
                latents, past = draw(1, context, config.latent_dim), draw(1, context - 1, config.action_dim)
                given = latents, past, draw(1, samples, self.history + 2, config.action_dim)
                exact, fused = self.single.rollout(*given), self.rollout(*given)
                error = float((fused - exact).abs().max() / exact.square().mean().sqrt())
                if not error <= _LARGEST_ERROR:
                    raise RuntimeError(f"their latents are off by {error:.2g} of the usual size of a latent")

    def rollout(self, latents: Tensor, history_actions: Tensor, candidates: Tensor) -> Tensor:
        """Return what ``LeWorldModel.rollout`` returns, in float32; shapes as there.

        Where a gradient is asked for, the operations of fast_rollout.py are used, in float32.
        """
        if candidates.requires_grad:
            return self.single.rollout(latents, history_actions, candidates)
        problems = zip(latents, history_actions, candidates, strict=True)
        return torch.stack([self._rollout(*problem) for problem in problems])

    def _rollout(self, latents: Tensor, history_actions: Tensor, candidates: Tensor) -> Tensor:
        """Return (S, H, D) for latents (T, D), history_actions (T - 1, A) and candidates (S, H, A)."""
        samples, horizon, _ = candidates.shape
        shared = len(latents) - 1
        past = self._conditions(history_actions[:, None]) if shared else None
        future = self._conditions(candidates.transpose(0, 1))
        frames = self._enter(latents[:, None].float())
        imagined = latents.new_empty(horizon + 1, samples, latents.shape[-1], dtype=torch.float32)
        imagined[0] = latents[-1]
        own = imagined if self.enter is None else frames[-1:].repeat(1, samples, 1)
        shape = len(self.layers), self.history, samples, 2, self.inner
        cache = torch.empty(shape, dtype=torch.float16, device=latents.device)
        start, kept, seen = -1, 0, 0  # seen: of the kept ones, how many all candidates share
        for step in range(horizon):
            window = max(0, shared + step + 1 - self.history)
            fresh = step
            if window != start:  # positions count from the window's start: nothing that was kept holds
                start, fresh = window, max(window - shared, 0)
                kept = seen = max(shared - window, 0)
                if seen:
                    self._through(frames[window:shared], 0, past[window:], cache, 0, 0)
            first = shared + fresh - window
            left = self._through(own[fresh : step + 1], first, future[fresh : step + 1], cache, kept, seen)
            kept += step + 1 - fresh
            torch.sum(self.leave(left)[:, 0], 0, out=imagined[step + 1])
            if self.enter is not None and step + 1 < horizon:
                own = torch.cat([own, self._enter(imagined[step + 1 : step + 2])])
        return imagined[1:].transpose(0, 1)

    def _enter(self, latents: Tensor) -> Tensor:
        return latents if self.enter is None else F.linear(latents, *self.enter)

    def _conditions(self, actions: Tensor) -> Tensor:
        """Return all layers' shifts, scales less one and gates (T, S, layers * 6 * W), for (T, S, A)."""
        active = actions.half().contiguous()
        for weight, bias in self.actions:
            active = F.silu(F.linear(active, weight, bias))
        return F.linear(active, *self.modulation)

    def _through(
        self, tokens: Tensor, first: int, conditions: Tensor, cache: Tensor, kept: int, seen: int
    ) -> _Left:
        """Pass fresh tokens (F, S, W) through all layers; their keys and values join the cache.

        ``first`` is the place of the first of them in the window, (F, S, layers * 6 * W) their conditions.
        """
        left, positions = _Left(tokens), self.positions[first:]
        for i, layer in enumerate(self.layers):
            condition = conditions[..., 6 * i * self.width :]
            last_only = i == len(self.layers) - 1
            left = layer.attend(left, positions, condition, cache[i], kept, seen, last_only)
            if last_only:
                left, condition = left.last(), condition[-1:]
            left = layer.feed(left, condition[..., 3 * self.width :])
        return left


class _Norms(NamedTuple):
    """One norm; or one, shift and scale, and a second one. What the last one multiplies with is elsewhere."""

    eps: float
    inner_eps: float | None = None

    def __call__(self, left: _Left, condition: Tensor | None = None, positions: Tensor | None = None):
        """Return tokens (F, S, W) with all parts added, in fp32, and what follows from them in fp16."""
        tokens, (count, samples, width) = left.tokens, left.tokens.shape
        tiles, rows = _tiles(count, samples, tokens.device), count * samples
        written, normed = torch.empty_like(tokens), torch.empty_like(tokens, dtype=torch.float16)
        none = tokens  # a pointer for what is not read
        given = condition if left.gate is None else left.gate
        _prepare[(triton.cdiv(rows, tiles.prepare),)](
            tokens,
            written,
            none if left.parts is None else left.parts,
            given,
            none if condition is None else condition,
            none if positions is None else positions,
            normed,
            rows,
            samples,
            width=width,
            padded=triton.next_power_of_2(width),
            cond_width=given.stride(1),
            split=0 if left.parts is None else len(left.parts),
            modulated=self.inner_eps is not None,
            eps=self.eps,
            inner_eps=self.inner_eps or self.eps,
            tile=tiles.prepare,
            num_warps=4,
        )
        return written, normed


class _Layer:
    """One layer of the predictor."""

    def __init__(self, layer: nn.Module):
        attention = layer.attn
        self.heads, self.inner = attention.heads, attention.inner
        self.norms = _Norms(layer.norm1.eps, attention.norm.eps)
        weight = attention.to_qkv.weight.clone()
        weight[: self.inner] *= (self.inner // self.heads) ** -0.5
        self.qkv, self.qkv_bias = _after_norm(weight, None, attention.norm)
        outer = attention.to_out[0]
        self.out, self.bias = outer.weight.T.contiguous().half(), outer.bias.float()
        norm, hidden, activation, _, outer, _ = layer.mlp.net
        self.mlp = _Mlp(norm, [hidden, activation], outer, layer.norm2)

    def attend(
        self,
        left: _Left,
        positions: Tensor,
        condition: Tensor,
        cache: Tensor,
        kept: int,
        seen: int,
        last_only: bool,
    ) -> _Left:
        """Return what is left after attention of the fresh tokens, or of the last of them."""
        count, samples, width = left.tokens.shape
        tokens, normed = self.norms(left, condition, positions)
        tiles = _tiles(count, samples, normed.device)
        parts = normed.new_empty(self.heads, 1 if last_only else count, samples, width)
        _attention[(triton.cdiv(samples, tiles.attention), self.heads)](
            normed,
            self.qkv,
            self.qkv_bias,
            self.out,
            self.bias,
            cache,
            parts,
            samples,
            cache.shape[1],
            seen,
            int(kept + count < len(cache)),
            fresh=count,
            kept=kept,
            last_only=last_only,
            width=width,
            padded=triton.next_power_of_2(width),
            chunk=_CHUNK,
            inner=self.inner,
            head_dim=self.inner // self.heads,
            tile=tiles.attention,
            stages=tiles.stages,
            num_warps=tiles.attention_warps,
        )
        return _Left(tokens, parts, condition[..., 2 * width :])

    def feed(self, left: _Left, condition: Tensor) -> _Left:
        """Return what is left after the MLP."""
        tokens, parts = self.mlp.apply(left, condition, torch.float16)
        return _Left(tokens, parts, condition[..., 2 * tokens.shape[-1] :])


class _Mlp:
    """A norm, or ``modulated``, shift and scale before it; the hidden layer with GELU; the outer layer."""

    def __init__(
        self,
        norm: nn.LayerNorm,
        hidden: list[nn.Module],
        outer: nn.Linear,
        modulated: nn.LayerNorm | None = None,
    ):
        weight, bias, _ = folded(hidden)
        self.enter, self.enter_bias = _after_norm(weight, bias, norm)
        self.out, self.bias = outer.weight.T.contiguous().half(), outer.bias.float()  # (hidden, out), (out,)
        self.norms = _Norms(norm.eps) if modulated is None else _Norms(modulated.eps, norm.eps)

    def __call__(self, left: _Left) -> Tensor:
        """Return parts (split, F, S, out) whose sum is the output for what ``left`` stands for."""
        return self.apply(left, None, torch.float32)[1]

    def apply(self, left: _Left, condition: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the tokens (F, S, W) that ``left`` stands for, and those parts."""
        count, samples, width = left.tokens.shape
        tokens, normed = self.norms(left, condition)
        (hidden, outputs), tiles = self.out.shape, _tiles(count, samples, normed.device)
        units = next(n for n in (256, 128, 64) if n <= tiles.units and hidden % n == 0)
        parts = normed.new_empty(hidden // units, count, samples, outputs, dtype=dtype)
        _mlp[(triton.cdiv(count * samples, tiles.mlp), len(parts))](
            normed,
            self.enter,
            self.enter_bias,
            self.out,
            self.bias,
            parts,
            count * samples,
            width=width,
            chunk=_CHUNK,
            outputs=outputs,
            padded=triton.next_power_of_2(outputs),
            units=units,
            tile=tiles.mlp,
            stages=tiles.stages,
            num_warps=tiles.mlp_warps,
        )
        return tokens, parts


def _tiles(count: int, samples: int, device: torch.device) -> Tiles:
    """Return how to divide the work on ``count`` tokens of ``samples`` candidates."""
    roomy = samples > _FEW and _shared_memory(device) >= _ROOMY
    return (_TILES if roomy else _TILES_OF_FEW)[count > 1]


@functools.lru_cache
def _shared_memory(device: torch.device) -> int:
    """Return how many bytes of shared memory a program may have."""
    if device.type != "cuda":  # triton's interpreter
        return _ROOMY
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def _halves(*layers: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias, in fp16, of the linear ones of these layers in a row."""
    weight, bias, _ = folded([layer for layer in layers if isinstance(layer, nn.Linear)])
    return weight.half(), bias.half()


def _after_norm(weight: Tensor, bias: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Return weight (out, in) in fp16 and bias in fp32 that do what ``norm``'s own do before them, too."""
    more = weight @ norm.bias
    return (weight * norm.weight).half().contiguous(), (more if bias is None else more + bias).float()

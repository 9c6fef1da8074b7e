"""An optimisation that readers may skip: ``LeWorldModel.rollout`` in fewer and larger operations.

The plain rollout predicts every window anew (paper, 4). Here what depends on the past alone is computed
once for all candidates; AdaLN's part of an action once, not once a window; keys and values stay while the
window grows; the last layer and the projector see the last token only; a token that sees nothing but
itself needs no query. Time comes first in memory, so that each operation runs over all candidates of the
window at once. Linear layers in a row are folded into one, with bias and GELU in the same kernel.

Shapes: B problems, S candidates or 1 where they share the past, F fresh tokens of a window, W the
predictor's width, A one action block.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model_ros.errors import UserError
from world_model_ros.model.lewm import LeWorldModel

if TYPE_CHECKING:
    from world_model_ros.planning.fused_rollout import FusedRollout

_log = logging.getLogger(__name__)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Block = tuple[Tensor, Tensor]  # keys and values of consecutive tokens, (T, B, S, heads, head dim)
_PACKED = ("_linear_pointwise", "_reorder_linear_weight")  # oneDNN's, which torch.compile uses too
_BF16 = "_is_mkldnn_bf16_supported"


def for_planning(model: LeWorldModel, precision: str = "fp32") -> Union["FastRollout", "FusedRollout"]:
    """Return what rolls out as ``model`` does, with a copy of its weights laid out for that.

    bfloat16 takes half the bytes, and half the time where the chip can multiply in it; float16 is for GPUs
    and uses fused kernels where these can be had, see fused_rollout.py. Latents come in and go out as
    float32, because the distances that a plan is judged by are small differences. UserError for float16 on a
    CPU.
    """
    with torch.inference_mode(False), torch.no_grad():
        if precision != "fp16":
            return FastRollout(model, PRECISIONS[precision], packed=True)
        if next(model.parameters()).device.type != "cuda":
            raise UserError("precision fp16 is for GPUs: choose fp32 or bf16, or device cuda.")
        try:
            from world_model_ros.planning.fused_rollout import FusedRollout

            return FusedRollout(model)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers and drivers each fail in their own way
            _log.warning("the fused kernels for GPUs cannot be used, planning is slower without: %s", error)
            return FastRollout(model, PRECISIONS[precision])


class FastRollout:
    """The rollout of a LeWorldModel in evaluation mode, with its weights as they are now.

    ``packed`` lays them out for this CPU, once: for many rollouts without a gradient.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32, packed: bool = False):
        def dense(*layers: nn.Module, scaled: Tensor | None = None) -> Dense:
            weight, bias, gelu = folded(layers)
            if scaled is not None:
                bias = bias + scaled
            bias = None if bias is None else bias.to(dtype)
            return Dense(weight.to(dtype), bias, gelu, packed)

        transformer = model.predictor.transformer
        self.history, self.dtype = model.config.history, dtype
        self.actions = chain(
            dense(pointwise(model.action_encoder.patch_embed), model.action_encoder.embed[0]),
            F.silu,
            dense(model.action_encoder.embed[2], transformer.cond_proj),
            F.silu,
        )
        self.enter = dense(transformer.input_proj) if _is_linear(transformer.input_proj) else None
        self.positions = model.predictor.pos_embedding[0]
        if self.enter is not None:
            self.positions = F.linear(self.positions, transformer.input_proj.weight)
        self.positions = self.positions.to(dtype)[:, None, None]  # (history, 1, 1, W)
        self.layers = [_Layer(layer, dense, dtype) for layer in transformer.layers]
        hidden, normed, activation, outer = model.pred_proj.net
        leave = [transformer.output_proj] if _is_linear(transformer.output_proj) else []
        self.norm = _Norm(transformer.norm, dtype, self.positions.device)
        self.leave = chain(dense(*leave, hidden, normed, activation), dense(outer))

    def rollout(self, latents: Tensor, history_actions: Tensor, candidates: Tensor) -> Tensor:
        """Return what ``LeWorldModel.rollout`` returns, from float32 to float32; shapes as there."""
        latents, history_actions, candidates = (
            values.to(self.dtype) for values in (latents, history_actions, candidates)
        )
        horizon, shared = candidates.shape[2], latents.shape[1] - 1
        # (T, B, S, ...): of the frames before the last one, and of each candidate's own
        past = self._conditions(history_actions.transpose(0, 1)[:, :, None]) if shared else []
        future = self._conditions(candidates.permute(2, 0, 1, 3))
        frames = self._enter(latents.transpose(0, 1)[:, :, None])
        own = [frames[shared:].expand(-1, -1, candidates.shape[1], -1)]
        imagined, start, kept = [], -1, []
        for step in range(horizon):
            window = max(0, shared + step + 1 - self.history)
            fresh = step  # the first of the candidates' own frames that is not in ``kept``
            if window != start:  # positions count from the window's start: nothing that was kept holds
                start, fresh, kept = window, max(window - shared, 0), [[] for _ in self.layers]
                if window < shared:
                    tokens = frames[window:shared] + self.positions[: shared - window]
                    self._through(tokens, [c[window:] for c in past], kept)
            first, end = shared + fresh - window, shared + step + 1 - window
            tokens = own[step] if fresh == step else torch.cat(own[fresh:])
            last = self._through(
                tokens + self.positions[first:end], [c[fresh : step + 1] for c in future], kept
            )
            imagined.append(self.leave(self.norm(last)))
            if step + 1 < horizon:
                own.append(self._enter(imagined[-1]))
        return torch.cat(imagined).permute(1, 2, 0, 3).float()

    def _enter(self, latents: Tensor) -> Tensor:
        return latents if self.enter is None else self.enter(latents)

    def _conditions(self, actions: Tensor) -> list[Tensor]:
        """Return each layer's shifts, scales and gates (T, B, S, 6, W) for actions (T, B, S, A)."""
        active = self.actions(actions)
        return [layer.modulation(active).unflatten(-1, (6, -1)) for layer in self.layers]

    def _through(self, tokens: Tensor, conditions: list[Tensor], kept: list[list[Block]]) -> Tensor:
        """Pass fresh tokens (F, B, S, W) on, whose keys and values join ``kept``; return the last token."""
        *layers, last = zip(self.layers, conditions, kept, strict=True)
        for layer, condition, blocks in layers:
            tokens = layer(tokens, condition, blocks)
        layer, condition, blocks = last
        return layer(tokens, condition, blocks, last_only=True)


class _Layer:
    """One layer of the predictor; what it multiplies with, in the order of use."""

    def __init__(self, layer: nn.Module, dense, dtype: torch.dtype):
        attention = layer.attn
        self.heads, scale = (attention.heads, -1), (attention.inner // attention.heads) ** -0.5
        modulation = layer.adaLN_modulation[1]
        around = torch.zeros_like(modulation.bias).unflatten(0, (6, -1))
        around[1::3] = 1  # the two scales are around one
        self.modulation = dense(modulation, scaled=around.flatten())
        norms = layer.norm1, layer.norm2, attention.norm, layer.mlp.net[0]
        self.norm1, self.norm2, self.inner, norm = (_Norm(n, dtype, modulation.bias.device) for n in norms)
        weight_q, weight_kv = attention.to_qkv.weight.split([attention.inner, 2 * attention.inner])
        self.query, self.key_value = dense(_linear(weight_q * scale)), dense(_linear(weight_kv))
        self.out = dense(attention.to_out[0])
        _, hidden, activation, _, outer, _ = layer.mlp.net
        self.mlp = chain(norm, dense(hidden, activation), dense(outer))

    def __call__(
        self, tokens: Tensor, condition: Tensor, kept: list[Block], last_only: bool = False
    ) -> Tensor:
        """Return tokens (F, B, S, W), or the last of them, after attention and MLP."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = condition.unbind(-2)
        context = self.inner(torch.addcmul(shift, scale, self.norm1(tokens)))
        if last_only and len(tokens) > 1:
            tokens = tokens[-1:]
            _, _, gate, mlp_shift, mlp_scale, mlp_gate = condition[-1:].unbind(-2)
        tokens = torch.addcmul(tokens, gate, self._attend(context, kept, last_only))
        context = torch.addcmul(mlp_shift, mlp_scale, self.norm2(tokens))
        return torch.addcmul(tokens, mlp_gate, self.mlp(context))

    def _attend(self, context: Tensor, kept: list[Block], last_only: bool) -> Tensor:
        """Return what fresh tokens (F, B, S, W) see of themselves and ``kept``, of all or of the last one."""
        keys, values = self.key_value(context).unflatten(-1, (2, *self.heads)).unbind(-3)
        first = len(context) - 1 if last_only else 0
        # With nothing before it, the first token sees but itself.
        asking = first if kept else max(first, 1)
        mixed = [] if asking == first else [values[:1]]
        if asking < len(context):
            queries = self.query(context[asking:]).unflatten(-1, self.heads)
            for i in range(len(queries)):
                end = asking + i + 1
                seen = [*kept, (keys[:end], values[:end])]
                mixed.append(_mixed(queries[i : i + 1], seen))
        kept.append((keys, values))
        return self.out((mixed[0] if len(mixed) == 1 else torch.cat(mixed)).flatten(-2))


def _mixed(query: Tensor, seen: list[Block]) -> Tensor:
    """Return the values (1, B, S, heads, head dim) as a scaled query of that shape weighs them.

    With a handful of tokens, sums of products are faster than matrix products or a fused attention.
    """
    scores = [(query * keys).sum(-1, keepdim=True) for keys, _ in seen]
    if len(seen) == 1:
        return (torch.softmax(scores[0], dim=0) * seen[0][1]).sum(0, keepdim=True)
    weights = torch.softmax(torch.cat(scores), dim=0).split([len(keys) for keys, _ in seen])
    first, *rest = (
        (weight * values).sum(0, keepdim=True) for weight, (_, values) in zip(weights, seen, strict=True)
    )
    return sum(rest, first)


class _Norm:
    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype, device: torch.device):
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.weight, self.bias = (None if v is None else v.to(dtype) for v in (norm.weight, norm.bias))
        if self.weight is None:  # with ones, the kernel on a CPU takes a third less
            self.weight = torch.ones(self.shape, dtype=dtype, device=device)

    def __call__(self, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens, self.shape, self.weight, self.bias, self.eps)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _linear(weight: Tensor) -> nn.Linear:
    """Return a linear layer of ``weight`` (out, in) without bias, a view of it."""
    layer = nn.Linear(1, 1, bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def pointwise(convolution: nn.Conv1d) -> nn.Linear:
    """Return a convolution of kernel 1 as the linear layer that it is."""
    layer = _linear(convolution.weight.squeeze(-1))
    layer.bias = convolution.bias
    return layer


def packs(dtype: torch.dtype) -> bool:
    """Whether this build of torch can lay weights of ``dtype`` out for this CPU.

    oneDNN does so in bfloat16 only where the CPU has AVX-512 or AVX-NE-CONVERT.
    """
    operations = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not all(hasattr(operations, name) for name in _PACKED):
        return False
    if dtype != torch.bfloat16:
        return True
    return hasattr(operations, _BF16) and getattr(operations, _BF16)()


class Dense:
    """``x -> gelu(x @ weight.T + bias)``, the GELU where asked for; x (..., in), weight (out, in).

    ``packed`` uses a copy of the weights laid out for this CPU where that pays, and no gradient is asked
    for: with the GELU in the same kernel, and in bfloat16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False, packed: bool = False):
        self.weight, self.bias, self.gelu = weight, bias, gelu
        self.packed = None
        pays = gelu or weight.dtype == torch.bfloat16
        if packed and pays and weight.device.type == "cpu" and packs(weight.dtype):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
            self.activation = ("gelu", [], "none") if gelu else ("none", [], "")

    def __call__(self, x: Tensor) -> Tensor:
        """Return (..., out)."""
        if self.packed is not None and not x.requires_grad:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, *self.activation)
        x = F.linear(x, self.weight, self.bias)
        return F.gelu(x) if self.gelu else x


def chain(*functions: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the functions one after the other."""

    def through(x: Tensor) -> Tensor:
        for function in functions:
            x = function(x)
        return x

    return through


def folded(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor | None, bool]:
    """Return weight, bias and whether a GELU follows, of linear layers and BatchNorms in a row.

    A BatchNorm is taken in evaluation mode. Layers that do nothing are skipped.
    """
    weight, bias, gelu = None, None, False
    for layer in layers:
        if isinstance(layer, nn.GELU):
            gelu = True
        elif isinstance(layer, nn.BatchNorm1d):
            factor = layer.weight * (layer.running_var + layer.eps).rsqrt()
            weight = weight * factor[:, None]
            bias = (bias - layer.running_mean) * factor + layer.bias
        elif isinstance(layer, nn.Linear):
            inner = bias
            bias = layer.bias if inner is None else F.linear(inner, layer.weight, layer.bias)
            weight = layer.weight if weight is None else layer.weight @ weight
    return weight, bias, gelu

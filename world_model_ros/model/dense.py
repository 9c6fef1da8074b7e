"""Linear layers for inference: neighbours folded into one, bias and GELU in the same kernel."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PACKED = ("_linear_pointwise", "_reorder_linear_weight")  # oneDNN's, which torch.compile uses too


def packs() -> bool:
    """Whether this build of torch can lay weights out for the CPU."""
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _PACKED)


class Dense:
    """``x -> gelu(x @ weight.T + bias)``, the GELU where asked for; x (..., in), weight (out, in).

    ``packed`` uses a copy of the weights laid out for this CPU where that pays, and no gradient is asked
    for: with the GELU in the same kernel, and in bfloat16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False, packed: bool = False):
        self.weight, self.bias, self.gelu = weight, bias, gelu
        self.packed = None
        pays = gelu or weight.dtype == torch.bfloat16
        if packed and pays and weight.device.type == "cpu" and packs():
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

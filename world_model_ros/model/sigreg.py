"""SIGReg: keep latents distributed like a standard normal, so that they cannot collapse.

Along random directions the characteristic function of a batch is compared with a normal's at uniform
knots (Epps-Pulley; LeWorldModel, arXiv 2603.19312, and LeJEPA).
"""

from collections.abc import Callable

import torch
from torch import Tensor

_LAST_KNOT = 3.0


def draw_directions(dim: int, projections: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw ``projections`` random unit columns: (dim, projections)."""
    directions = torch.randn(dim, projections, generator=generator)
    return directions / directions.norm(dim=0)


def sigreg(
    latents: Tensor,
    directions: Tensor,
    knots: int = 17,
    mean_: Callable[[Tensor], Tensor] | None = None,
    processes: int = 1,
) -> Tensor:
    """Return the Epps-Pulley statistic of latents (T, B, D) along ``directions`` (D, P), a scalar.

    Statistics are over the batch B, averaged over T and P; the value grows with B. Always fp32, also
    under autocast: the small differences of means would drown in bf16. Raises ValueError for fewer than
    two knots.

    Where a batch is shared by ``processes``, B clips each, ``mean_`` replaces a tensor by its mean over them:
    the value is that of the whole batch, and the mean over the processes of the gradients that follow from it
    is the gradient.
    """
    if knots < 2:
        raise ValueError(f"SIGReg needs at least two knots, got {knots}")
    with torch.autocast(latents.device.type, enabled=False):
        projected = latents.float() @ directions.to(latents.device, torch.float32)  # (T, B, P)
        return _EppsPulley.apply(projected, knots, mean_, processes)


def _knots(knots: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return knots t, a normal's characteristic function phi there, trapezoid weights times phi."""
    t = torch.linspace(0, _LAST_KNOT, knots, device=device)
    phi = torch.exp(-(t**2) / 2)
    weights = torch.full_like(t, 2 * _LAST_KNOT / (knots - 1))
    weights[[0, -1]] /= 2
    return t, phi, weights * phi


class _EppsPulley(torch.autograd.Function):
    """The statistic with one cosine and one sine for all knots.

    The knots are uniform, t_k = k dt, so cos(t_k y) = 2 cos(dt y) cos(t_(k-1) y) - cos(t_(k-2) y), the
    same for the sine (Chebyshev). The derivative is a series in these cosines and sines; Clenshaw's
    recurrence sums it from cos(dt y) and sin(dt y) alone, so nothing else is stored for it.
    """

    @staticmethod
    def forward(ctx, projected: Tensor, knots: int, mean_, processes: int) -> Tensor:
        steps, batch, projections = projected.shape
        t, phi, weights = _knots(knots, projected.device)
        angle = projected * t[1]
        cosine, sine = torch.cos(angle), torch.sin(angle)
        # means over the batch, as deviations from a normal: (K, T, P)
        real = projected.new_zeros(knots, steps, projections)
        imaginary = torch.zeros_like(real)
        for step in range(steps):  # a step at a time stays in the CPU's cache
            double = 2 * cosine[step]
            cos_before, cos_now = torch.ones_like(double), cosine[step].clone()
            sin_before, sin_now = torch.zeros_like(double), sine[step].clone()
            for k in range(1, knots):
                real[k, step] = cos_now.mean(0) - phi[k]
                imaginary[k, step] = sin_now.mean(0)
                cos_before, cos_now = cos_now, cos_before.neg_().addcmul_(double, cos_now)
                sin_before, sin_now = sin_now, sin_before.neg_().addcmul_(double, sin_now)
        if mean_ is not None:
            mean_(real)
            mean_(imaginary)
        ctx.save_for_backward(cosine, sine, real, imaginary)
        ctx.processes = processes
        per_knot = (real.square() + imaginary.square()).mean((1, 2))
        return processes * batch * (weights * per_knot).sum()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        cosine, sine, real, imaginary = ctx.saved_tensors
        knots, steps, projections = real.shape
        t, _, weights = _knots(knots, cosine.device)
        # d/dy of a batch of means: sum_k imaginary_k cos(t_k y) - real_k sin(t_k y), weighted by t_k; times
        # the processes, because their gradients are averaged
        factor = (2 * ctx.processes * gradient / (steps * projections)) * (weights * t)[:, None, None]
        of_cosine, of_sine = factor * imaginary, -factor * real
        result = torch.empty_like(cosine)
        for step in range(steps):
            double = 2 * cosine[step]
            a_now, a_after = torch.zeros_like(double), torch.zeros_like(double)
            b_now, b_after = torch.zeros_like(double), torch.zeros_like(double)
            for k in range(knots - 1, 0, -1):
                a_now, a_after = a_after.neg_().addcmul_(double, a_now).add_(of_cosine[k, step]), a_now
                b_now, b_after = b_after.neg_().addcmul_(double, b_now).add_(of_sine[k, step]), b_now
            # sum a_k cos(k x) = a_1 cos x - a_2 (knot 0 has t = 0), sum b_k sin(k x) = b_1 sin x
            result[step] = a_now * cosine[step] - a_after + b_now * sine[step]
        return result, None, None, None

"""Training in several processes that `torchrun` starts, one for each GPU or CPU: its ranks.

Every rank computes the loss of its part of a batch; means over the batch (of gradients, and of the statistics
of SIGReg and BatchNorm) are means over the ranks. So W ranks with a W-th of the clips each take the step that
one process with all clips takes.
"""

import contextlib
import datetime
import os
import sys
from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from world_model_ros.errors import UserError

_TIMEOUT = datetime.timedelta(hours=12)  # rank 0 may write a large frame cache while the others wait


class Ranks:
    """The processes of a training and the place of this one; a single process is rank 0 of 1."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1):
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = local_rank, local_size  # on this machine

    def mean_(self, values: Tensor) -> Tensor:
        """Replace ``values`` by their mean over all ranks; the same bits on each."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def part(self, indices: np.ndarray) -> np.ndarray:
        """Return this rank's part of the clips of a step, as many as every other's."""
        if len(indices) % self.size:
            fitting = len(indices) // self.size * self.size
            raise UserError(
                f"the {len(indices)} clips of a step cannot be shared equally by {self.size} processes: give "
                f"--batch {fitting or self.size}, or another --nproc-per-node."
            )
        return np.split(indices, self.size)[self.rank]

    def from_first(self, value):
        """Return rank 0's ``value`` (what pickle can carry) on every rank."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box)
        return box[0]

    def turns(self) -> Iterable[int]:
        """Return as many turns as this machine has ranks; in the turn of its ``local_rank`` a rank works.

        All ranks wait for the end of every turn.
        """
        for turn in range(self.local_size):
            yield turn
            if self.size > 1:
                dist.barrier()

    def leave(self, code: int) -> None:
        """End this process with its exit code where it is one of several; everything is written.

        A thread of gloo may still hold tensors: their end during Python's own aborts the process (pytorch
        pull request 179291), and torchrun then ends all the others.
        """
        if self.size > 1:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def mean_gradients(self, parameters: Iterable[nn.Parameter], *more: Tensor) -> list[Tensor]:
        """Replace the gradients by their mean over all ranks; return the means of the scalars ``more``."""
        if self.size == 1:
            return list(more)
        tensors = [p.grad for p in parameters if p.grad is not None]
        flat = self.mean_(torch.cat([t.detach().flatten().float() for t in (*tensors, *more)]))
        *means, scalars = flat.split([*(t.numel() for t in tensors), len(more)])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view_as(tensor))
        return list(scalars)


@contextlib.contextmanager
def joined(device: str):
    """Yield the Ranks of this process: those that `torchrun` started, which talk to each other, or one.

    ``device`` is "cpu" (they talk by gloo) or "cuda" (NCCL), each rank of a machine on its own GPU. Only
    rank 0 prints; errors are printed by all. Raises UserError where there are fewer GPUs than ranks, and
    where another rank ends.
    """
    if not dist.is_torchelastic_launched():
        yield Ranks()
        return
    here = [int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
    ranks = Ranks(*here)
    if device == "cuda":
        if ranks.local_size > torch.cuda.device_count():
            raise UserError(
                f"torchrun starts {ranks.local_size} processes here, torch sees {torch.cuda.device_count()} "
                "GPUs: give --nproc-per-node as many, or --device cpu."
            )
        torch.cuda.set_device(ranks.local_rank)
    with contextlib.ExitStack() as quiet:
        if ranks.rank:
            nothing = quiet.enter_context(open(os.devnull, "w"))
            quiet.enter_context(contextlib.redirect_stdout(nothing))
            quiet.enter_context(contextlib.redirect_stderr(nothing))
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_TIMEOUT)
        try:
            yield ranks
        except RuntimeError as error:  # what a collective raises where a rank has ended
            if not isinstance(error, dist.DistError) and "onnection" not in str(error):
                raise
            raise UserError(
                f"process {ranks.rank} of {ranks.size} stops because another one has ended: see its error; "
                "the same command goes on from the last saved state."
            ) from None
        finally:
            sys.stdout.flush()
            dist.destroy_process_group()


class _Mean(torch.autograd.Function):
    """The mean over all ranks; its gradient is the mean of theirs, as gradients are averaged at the end."""

    @staticmethod
    def forward(ctx, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.mean_(values.clone())

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return ctx.ranks.mean_(gradient.clone()), None


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the clips of all ranks (torch's SyncBatchNorm is for GPUs only)."""

    ranks: Ranks

    def _check_input_dim(self, _: Tensor) -> None:
        pass

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return super().forward(values)
        exact = values.float()
        dims = [d for d in range(values.ndim) if d != 1]
        shape = [1, -1] + [1] * (values.ndim - 2)
        mean = _Mean.apply(exact.mean(dims), self.ranks)
        centred = exact - mean.view(shape)
        variance = _Mean.apply(centred.square().mean(dims), self.ranks)
        with torch.no_grad():
            count = self.ranks.size * values.numel() // len(mean)
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(values.dtype)


def share_batch_norm(module: nn.Module, ranks: Ranks) -> None:
    """Let every BatchNorm in ``module`` see the clips of all ranks; its parameters keep their names."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            child.__class__, child.ranks = _BatchNorm, ranks

"""softmax-mse on l2 by hand in Triton, with which `cuda_layer.py` compares: loss and gradients, a program for a row."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def _kernel(x, x_pos, x_neg, loss, grad_x, grad_x_pos, grad_x_neg, factor, dim, BLOCK: tl.constexpr):  # noqa: N803
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    inside = k < dim
    at = row * dim + k
    a = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    u = a - tl.load(x_pos + at, mask=inside, other=0).to(tl.float32)
    v = a - tl.load(x_neg + at, mask=inside, other=0).to(tl.float32)
    d_pos, d_neg = tl.sqrt(tl.sum(u * u)), tl.sqrt(tl.sum(v * v))
    s, q = tl.sigmoid(d_pos - d_neg), tl.sigmoid(d_neg - d_pos)
    slope = 4 * q * s * s * factor
    u = tl.where(d_pos > 0, slope / d_pos, 0.0) * u
    v = tl.where(d_neg > 0, slope / d_neg, 0.0) * v
    tl.store(loss + row, 2 * s * s)
    tl.store(grad_x + at, (u - v).to(grad_x.dtype.element_ty), mask=inside)
    tl.store(grad_x_pos + at, (-u).to(grad_x.dtype.element_ty), mask=inside)
    tl.store(grad_x_neg + at, v.to(grad_x.dtype.element_ty), mask=inside)


def forward_backward(x: Any, x_pos: Any, x_neg: Any, factor: float) -> tuple[Any, ...]:
    """The losses of the rows and the three gradients, of tensors of shape (rows, dim) on a GPU."""
    rows, dim = x.shape
    loss = torch.empty(rows, dtype=torch.float32, device=x.device)
    gradients = tuple(torch.empty_like(x) for _ in range(3))
    block = triton.next_power_of_2(dim)
    warps = 4 if block <= 1024 else 8 if block <= 4096 else 16
    _kernel[(rows,)](x, x_pos, x_neg, loss, *gradients, factor, dim, BLOCK=block, num_warps=warps)
    return loss, *gradients

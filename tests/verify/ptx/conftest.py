"""Small PTX kernels around the statements under test, run on a simulated device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from derive_triplet.derive.verify import ptx

HEADER = ".version 9.0\n.target sm_90\n.address_size 64\n"
REGISTERS = """.reg .pred %p<8>; .reg .b16 %h<16>; .reg .b32 %r<32>; .reg .b32 %f<16>;
.reg .b64 %rd<32>; .reg .b64 %fd<16>;
"""


@pytest.fixture
def kernel() -> Callable[..., ptx.Program]:
    """A kernel k with these statements; `pointers` of its parameters are loaded into %rd0, %rd1, ..."""

    def make(body: str, pointers: int = 1, variables: str = "") -> ptx.Program:
        parameters = ", ".join(f".param .u64 p{i}" for i in range(pointers))
        loads = "\n".join(f"ld.param.u64 %rd{i}, [p{i}];" for i in range(pointers))
        text = f"{HEADER}{variables}\n.visible .entry k({parameters})\n{{\n{REGISTERS}{loads}\n{body}\nret;\n}}\n"
        return ptx.load(text).kernel("k")

    return make


@pytest.fixture
def compute(kernel: Callable[..., ptx.Program]) -> Callable[..., np.ndarray]:
    """What statements make of %a, %b, %c, %d, the elements of the arrays given, in %o, of type `out`."""

    def register(dtype: np.dtype[Any]) -> int:
        return max(16, 8 * dtype.itemsize)

    def run(body: str, out: Any, *sources: Any) -> np.ndarray:
        arrays = [np.atleast_1d(source) for source in sources]
        count = max((len(array) for array in arrays), default=1)
        device = ptx.Device()
        o = device.empty("o", count, out)
        lines = [f".reg .b{register(o.dtype)} %o; .reg .pred %p, %q;", "mov.u32 %r0, %tid.x;"]
        for number, (name, array) in enumerate(zip("abcd", arrays, strict=False), 1):
            size = array.dtype.itemsize
            lines += [
                f".reg .b{register(array.dtype)} %{name};",
                f"mad.wide.u32 %rd{10 + number}, %r0, {size}, %rd{number};",
                f"ld.global.b{8 * size} %{name}, [%rd{10 + number}];",
            ]
        size = o.dtype.itemsize
        lines += [body, f"mad.wide.u32 %rd10, %r0, {size}, %rd0;", f"st.global.b{8 * size} [%rd10], %o;"]
        buffers = [device.buffer(name, np.broadcast_to(a, count)) for name, a in zip("abcd", arrays, strict=False)]
        device.launch(kernel("\n".join(lines), 1 + len(arrays)), 1, count, [o, *buffers])
        return o.array()

    return run

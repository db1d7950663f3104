"""The float formats that embeddings and gradients are kept in: what each can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class FloatFormat:
    """A float format.

    computed_in: the format of losses, parameters and intermediate results. precision: bits of the significand, the
    leading one included. least_exponent, largest_exponent: of the smallest and the largest normal number.
    """

    name: str
    computed_in: str
    precision: int
    least_exponent: int
    largest_exponent: int

    @property
    def eps(self) -> float:
        """The distance from 1 to the next larger number."""
        return 2.0 ** (1 - self.precision)

    @property
    def tiny(self) -> float:
        """The smallest normal number."""
        return 2.0**self.least_exponent

    @property
    def smallest_subnormal(self) -> float:
        return 2.0 ** (self.least_exponent - self.precision + 1)

    @property
    def largest(self) -> float:
        return (2.0 - self.eps) * 2.0**self.largest_exponent

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the arrays that its numbers are kept in: NumPy's own, or float32 where NumPy has none."""
        import numpy as np

        return np.dtype("float32" if self.name == "bfloat16" else self.name)

    def rounded(self, values: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """`values` rounded to nearest, ties to even."""
        import numpy as np

        with np.errstate(over="ignore", under="ignore"):
            array = np.asarray(values).astype(self.dtype)
        return array if self.name != "bfloat16" else from_bits(to_bits(array))


FORMATS: Mapping[str, FloatFormat] = MappingProxyType(
    {
        made.name: made
        for made in (
            FloatFormat("float32", "float32", 24, -126, 127),
            FloatFormat("float64", "float64", 53, -1022, 1023),
            FloatFormat("float16", "float32", 11, -14, 15),
            FloatFormat("bfloat16", "float32", 8, -126, 127),
        )
    }
)


def to_bits(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint16]:
    """The bfloat16 nearest to each float32."""
    import numpy as np

    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)


def from_bits(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The float32 of each bfloat16."""
    import numpy as np

    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)

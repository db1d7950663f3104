"""Layers of Caffe as data, and the text that Caffe reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import DefinitionError


class Word(str):
    """A value of an enumeration, which is printed without quotes."""


@dataclass(frozen=True)
class Layer:
    """One layer of a net; its only top is a blob of the layer's name.

    parameters: its fields besides type, name, bottoms and top; a tuple repeats a field, a mapping is a message.
    comments: lines on what it computes, and what to know of it.

    Raises `DefinitionError` for an Eltwise of a blob with itself, a sum or product that another layer says better.
    """

    type: str
    name: str
    bottoms: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    comments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.type == "Eltwise" and len(set(self.bottoms)) < max(2, len(self.bottoms)):
            raise DefinitionError(f"{self.name}: Eltwise needs different bottoms, not {', '.join(self.bottoms)}")

    @property
    def fields(self) -> list[str]:
        """The parameters as lines of protocol buffers' text format."""
        return [line for name, value in self.parameters.items() for line in _fields(name, value)]


def _fields(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, tuple):
        for each in value:
            yield from _fields(name, each)
    elif isinstance(value, Mapping):
        inner = (line for key, each in value.items() for line in _fields(key, each))
        yield f"{name} {{ {' '.join(inner)} }}"
    else:
        yield f"{name}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | Word) else single(value)


def single(value: float) -> str:
    """A number as caffe.proto keeps it, in single precision, in as few digits as tell it from others.

    Raises `DefinitionError` for one that single precision cannot hold.
    """
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.float32(value)
    if not math.isfinite(rounded) or (value and not rounded):
        raise DefinitionError(f"Caffe keeps the constants of a net in single precision, which cannot hold {value}")
    return str(rounded).removesuffix(".0")


def of_embedding_size(layers: Iterable[Layer], embeddings: Iterable[str]) -> tuple[str, ...]:
    """The tops that take the memory of an embedding; the others hold a number or two for each row, or share it."""
    large = list(embeddings)
    count = len(large)
    for layer in layers:
        if layer.type not in ("Reduction", "Reshape") and layer.bottoms[0] in large:
            large.append(layer.name)
    return tuple(large[count:])


def split(layers: Iterable[Layer], blobs: Iterable[str]) -> tuple[str, ...]:
    """The blobs that several layers use, once for each: Caffe makes copies, which have gradients of their own."""
    uses = [bottom for layer in layers for bottom in layer.bottoms]
    return tuple(bottom for bottom in uses if bottom in set(blobs) and uses.count(bottom) > 1)


def constants(layers: Iterable[Layer]) -> frozenset[float]:
    """The numbers among the parameters that Caffe rounds to single precision."""
    return frozenset(value for layer in layers for value in _leaves(layer.parameters) if isinstance(value, float))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(each)
    else:
        yield value

"""Make one quantized weight of several, without loss: rows of the parts of a merged layer, and stacks of experts.

Parts in different schemes get one that holds them all: 4-bit codes, and the values of a codebook of integers, are 8-bit
codes too, a large group is several small ones, and symmetric codes have the middle code as their zero point.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekiln.calib.formats.codebook import without_codebook
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight

_ARRAYS = ("codes", "scales", "zero_points", "group_bias")
_Join = Callable[[Scheme, Sequence[PrequantizedWeight]], PrequantizedWeight]


class CodesNotKeptError(Exception):
    """The codes of a checkpoint make no weight of the model; the message is the reason, to follow a colon."""


_Kept = Callable[[str], PrequantizedWeight | None]


def kept_or_none(kept: _Kept, name: str) -> PrequantizedWeight | None:
    """The weight that `kept` gives for a name; None also where it raises CodesNotKeptError."""
    try:
        return kept(name)
    except CodesNotKeptError:
        return None


def notes_of(kept: _Kept, names: Iterable[str]) -> list[str]:
    """Notes for the user on the weights of these names for which `kept` raises CodesNotKeptError."""
    reasons = []
    for name in names:
        try:
            kept(name)
        except CodesNotKeptError as error:
            reasons.append(str(error))
    return not_kept(reasons)


def not_kept(reasons: Iterable[str]) -> list[str]:
    """Notes for the user on weights whose codes are not kept, from the messages of their errors."""
    return [
        f"{count} quantized weights are dequantized, and quantized again as the preset says: {reason}"
        for reason, count in Counter(reasons).items()
    ]


def merge(parts: Sequence[PrequantizedWeight], rows: npt.NDArray[np.int64]) -> PrequantizedWeight:
    """The weight of rows of `parts`.

    Args:
        parts: weights with the same number of columns.
        rows: int64 [N], the row of each row of the weight, counted through all parts.

    Raises:
        CodesNotKeptError: no scheme holds all parts exactly, or their columns are in different orders.
    """
    if any(not np.array_equal(_order(part), _order(parts[0])) for part in parts):
        raise CodesNotKeptError("the parts of a layer have their columns in different orders")

    def join(scheme: Scheme, parts: Sequence[PrequantizedWeight]) -> PrequantizedWeight:
        def read() -> QuantizedWeight:
            weight = _below_each_other([in_scheme(part.read(), scheme) for part in parts])
            if np.array_equal(rows, np.arange(len(weight.codes))):
                return weight
            arrays = {name: array[rows] for name in _ARRAYS if (array := getattr(weight, name)) is not None}
            return replace(weight, **arrays)

        return PrequantizedWeight(scheme, read, _note(scheme, parts), order=parts[0].order)

    return _joined(parts, join)


def stack(experts: Sequence[PrequantizedWeight]) -> PrequantizedWeight:
    """The weight [E * N, K] of experts [N, K].

    With act-order, its order is int64 [E, K], see `QuantizedWeight`.

    Raises:
        CodesNotKeptError: no scheme holds all experts exactly.
    """

    def join(scheme: Scheme, experts: Sequence[PrequantizedWeight]) -> PrequantizedWeight:
        same = tuple(
            expert if expert.scheme == scheme else _changed(expert, scheme)
            for expert in (replace(expert, others=()) for expert in experts)
        )

        def read() -> QuantizedWeight:
            return _stacked(same)

        return PrequantizedWeight(scheme, read, _note(scheme, experts), experts=same)

    return _joined(experts, join)


def in_scheme(weight: QuantizedWeight, scheme: Scheme) -> QuantizedWeight:
    """The same weight in a scheme that `common_scheme` found for its own and others."""
    own = weight.scheme
    if own == scheme:
        return weight
    assert own.group_size is not None
    assert scheme.group_size is not None
    times, shift = own.group_size // scheme.group_size, (1 << scheme.bits - 1) - (1 << own.bits - 1)
    scales = np.repeat(weight.scales, times, axis=1)
    zero_points, bias, order = None, None, weight.order
    if not scheme.symmetric and weight.zero_points is None:
        zero_points = np.full(scales.shape, 1 << scheme.bits - 1, np.uint8)
    elif weight.zero_points is not None:
        zero_points = np.repeat(weight.zero_points, times, axis=1) + np.uint8(shift)
    if scheme.group_bias:
        bias = np.zeros_like(scales) if weight.group_bias is None else np.repeat(weight.group_bias, times, axis=1)
    if scheme.act_order and order is None:
        order = np.arange(weight.codes.shape[1])
    codes = weight.codes + np.uint8(shift)
    return replace(
        weight, scheme=scheme, codes=codes, scales=scales, zero_points=zero_points, group_bias=bias, order=order
    )


def common_scheme(schemes: Iterable[Scheme]) -> Scheme:
    """The smallest scheme that holds weights in all of `schemes` exactly.

    Raises:
        CodesNotKeptError: there is none.
    """
    distinct = set(schemes)
    if len(distinct) == 1:
        return distinct.pop()
    symmetric, group_bias = all(one.symmetric for one in distinct), any(one.group_bias for one in distinct)
    groups = [one.group_size for one in distinct if one.group_size is not None]
    if (
        len(groups) < len(distinct)
        or any(one.codebook or one.activation != "none" for one in distinct)
        or (group_bias and not symmetric)
    ):
        raise CodesNotKeptError("parts or experts of a layer have schemes that no other holds exactly")
    act_order = any(one.act_order for one in distinct)
    return Scheme(max(one.bits for one in distinct), min(groups), symmetric, "none", group_bias, act_order)


def _order(weight: PrequantizedWeight) -> npt.NDArray[np.int64]:
    return np.empty(0, np.int64) if weight.order is None else weight.order


def _joined(weights: Sequence[PrequantizedWeight], join: _Join) -> PrequantizedWeight:
    """Join weights in all forms that they have in common; static scales of inputs are those of one weight."""
    if len({weight.scheme for weight in weights}) > 1:
        weights = [without_codebook(weight) for weight in weights]
    others = []
    for form in weights[0].others:
        forms = [next((one for one in weight.others if one.scheme == form.scheme), None) for weight in weights]
        found = [one for one in forms if one is not None]
        if len(found) == len(weights) and form.scheme.activation != "int8-static":
            others.append(join(form.scheme, found))
    return replace(join(common_scheme(weight.scheme for weight in weights), weights), others=tuple(others))


def _changed(weight: PrequantizedWeight, scheme: Scheme) -> PrequantizedWeight:
    return replace(weight, scheme=scheme, read=lambda: in_scheme(weight.read(), scheme))


def _note(scheme: Scheme, weights: Sequence[PrequantizedWeight]) -> str | None:
    notes = list(dict.fromkeys(weight.note for weight in weights if weight.note))
    if any(weight.scheme.bits < scheme.bits for weight in weights):
        notes.append("weights with parts or experts in 4 and in 8 bits are kept exactly in 8 bits")
    return "; ".join(notes) or None


def _below_each_other(weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """The rows of weights in the same scheme and order of columns."""
    first = weights[0]
    if len(weights) == 1:
        return first
    fields = {
        name: np.concatenate([getattr(weight, name) for weight in weights])
        for name in _ARRAYS
        if getattr(first, name) is not None
    } | _mean_errors([(weight.relative_error, weight.clipped) for weight in weights])
    return replace(first, **fields)


def _stacked(experts: Sequence[PrequantizedWeight]) -> QuantizedWeight:
    """Read experts, one at a time, into arrays for all of them."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    errors = []
    for index, expert in enumerate(experts):
        weight = expert.read()
        for name in (*_ARRAYS, "order"):
            if (array := getattr(weight, name)) is not None:
                arrays.setdefault(name, np.empty((len(experts), *array.shape), array.dtype))[index] = array
        errors.append((weight.relative_error, weight.clipped))
    rows = {name: array if name == "order" else array.reshape(-1, *array.shape[2:]) for name, array in arrays.items()}
    relative = tuple(error for error, _ in errors)
    return replace(weight, expert_errors=relative if any(relative) else None, **(rows | _mean_errors(errors)))


def _mean_errors(errors: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Of parts of like size. Errors are 0, but for formats that are quantized again."""
    relative_error, clipped = np.mean(errors, axis=0).tolist()
    return {"relative_error": relative_error, "clipped": clipped}

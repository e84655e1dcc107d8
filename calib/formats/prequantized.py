"""A weight that is quantized before the build: by the checkpoint, or by a quantizer."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight


@dataclass(frozen=True)
class PrequantizedWeight:
    """A quantized weight whose scheme is known before its data is read.

    Attributes:
        scheme: scheme of the weight that `read` returns.
        read: reads the weight [N, K]; raises SourceError if it is damaged.
        note: for the user, why weights of this kind differ from those of the checkpoint, or take more bits; else None.
        others: the same codes for other kinds of activation quantization.
        order: the act-order permutation, where the scheme has it and the weight is one matrix; see `QuantizedWeight`.
        experts: of a stack of experts, the weight [N, K] of each; `read` gives [E * N, K]. Empty for other weights.
    """

    scheme: Scheme
    read: Callable[[], QuantizedWeight]
    note: str | None = None
    others: tuple["PrequantizedWeight", ...] = ()
    order: npt.NDArray[np.int64] | None = None
    experts: tuple["PrequantizedWeight", ...] = ()

    def matching(self, wanted: Scheme) -> "PrequantizedWeight | None":
        """The form of this weight that a layer with the scheme `wanted` uses; None to quantize the layer from float.

        A layer with float activations keeps any codes: quantizing it again could only lose accuracy. A layer with int8
        activations keeps only codes of the very scheme, since its kernels take no other.
        """
        for form in (self, *self.others):
            if form.scheme == wanted or wanted.activation == form.scheme.activation == "none":
                return form
        return None

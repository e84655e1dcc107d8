"""A weight that arrives quantized, from a checkpoint or from calibration."""

from collections.abc import Callable
from dataclasses import dataclass

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight


@dataclass(frozen=True)
class PrequantizedWeight:
    """Its scheme is known before its data is read.

    Attributes:
        scheme: that of what `read` returns.
        read: the weight [N, K]; it may raise SourceError.
        others: the same codes for other treatments of the layer's input.
        note: why it is not exactly what the checkpoint holds, where that is so; for the user, about a kind of weights.
    """

    scheme: Scheme
    read: Callable[[], QuantizedWeight]
    note: str | None = None
    others: tuple["PrequantizedWeight", ...] = ()

    def matching(self, wanted: Scheme) -> "PrequantizedWeight | None":
        """The form that a layer which is to get the scheme `wanted` keeps instead; None to quantize it from float.

        Where only the weight is quantized, every grid is kept: quantizing it again could only lose. Layers with int8
        activations keep codes made for just that; anything else their kernels cannot use.
        """
        for form in (self, *self.others):
            if form.scheme == wanted or wanted.activation == form.scheme.activation == "none":
                return form
        return None

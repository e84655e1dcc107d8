"""A weight that arrives quantized, from a checkpoint or from calibration."""

from collections.abc import Callable
from dataclasses import dataclass

from edgekiln.calib.scheme import Scheme
from edgekiln.calib.weight import QuantizedWeight


@dataclass(frozen=True)
class StoredWeight:
    """Its scheme is known before its data is read.

    Attributes:
        scheme: that of what `read` returns.
        read: the weight [N, K]; it may raise SourceError.
    """

    scheme: Scheme
    read: Callable[[], QuantizedWeight]

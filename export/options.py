"""What a user can choose of a build. Imports nothing heavy, so that the command line can check options at once."""

from dataclasses import dataclass
from typing import Literal, get_args

from edgekiln.calib.scheme import QuantizationOptions
from edgekiln.errors import RequestError

Target = Literal["ort-cpu"]
Quant = Literal["none", "int8", "int4"]


@dataclass(frozen=True)
class BuildOptions:
    """Options of `build_engine`.

    Attributes:
        target: runtime to lower for.
        quant: weights in 8 bits with 8-bit activations a token, in 4 bits, or left as float32.
        group_size: inputs that share a scale, for int4.
        max_length: tokens a sequence may hold; None takes the model's own context.

    Raises:
        RequestError: a value that is not one of these.
    """

    target: Target = "ort-cpu"
    quant: Quant = "int8"
    group_size: int = 32
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise RequestError(f"target must be one of {', '.join(get_args(Target))}, got {self.target}")
        _ = self.quantization
        if self.max_length is not None and self.max_length < 1:
            raise RequestError(f"max length must be at least 1 token, got {self.max_length}")

    @property
    def quantization(self) -> QuantizationOptions:
        """The part of the options that the quantizers read; making it checks it."""
        return QuantizationOptions(self.quant, self.group_size)

"""What a user can choose of a build. Imports nothing heavy, so that the command line can check options at once."""

from dataclasses import dataclass
from typing import Literal, get_args

from edgekiln.errors import RequestError

Target = Literal["ort-cpu"]
Quant = Literal["none", "int8", "int4"]
GROUP_SIZES = (32, 64, 128)


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
        if self.quant not in get_args(Quant):
            raise RequestError(f"quant must be one of {', '.join(get_args(Quant))}, got {self.quant}")
        if self.group_size not in GROUP_SIZES:
            raise RequestError(f"group size must be 32, 64 or 128, got {self.group_size}")
        if self.max_length is not None and self.max_length < 1:
            raise RequestError(f"max length must be at least 1 token, got {self.max_length}")

"""What a user can choose of a build. Imports nothing heavy, so that the command line can check options at once."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from edgekiln.calib.data.options import DataOptions
from edgekiln.calib.evaluation.options import QualityText
from edgekiln.calib.limits import Limits
from edgekiln.calib.presets import DEFAULT_LIMITS, preset
from edgekiln.calib.recipe import Recipe
from edgekiln.calib.tensorrt.options import TensorRTOptions
from edgekiln.errors import RequestError

Target = Literal["ort-cpu", "ort-cuda", "trt", "trt-rtx"]
CacheType = Literal["float32", "int8"]


@dataclass(frozen=True)
class BuildOptions:
    """Options of `build_engine`.

    Attributes:
        target: runtime to lower for.
        quant: the name of a recipe in `edgekiln.calib.presets`, or of `recipe` if that is given.
        group_size: inputs that share a scale, for presets in groups; None takes the preset's own.
        recipe: what each layer gets, in place of a preset.
        data: what recipes that need it are calibrated with.
        limits: how much worse than float32 the engine may be; without any, a preset's own.
        kv: type of the cached keys and values.
        max_length: tokens a sequence may hold; None takes the model's own context.
        tensorrt: what targets trt and trt-rtx compile.
        quality_text: what the finished engine and the model are compared on; None measures nothing.

    Raises:
        RequestError: a value that is not one of these.
    """

    target: Target = "ort-cpu"
    quant: str = "int8"
    group_size: int | None = None
    recipe: Recipe | None = None
    data: DataOptions = field(default_factory=DataOptions)
    limits: Limits = field(default_factory=Limits)
    kv: CacheType = "float32"
    max_length: int | None = None
    tensorrt: TensorRTOptions = field(default_factory=TensorRTOptions)
    quality_text: QualityText | None = None

    def __post_init__(self) -> None:
        for name, value, kind in (("target", self.target, Target), ("kv", self.kv, CacheType)):
            if value not in get_args(kind):
                raise RequestError(f"{name} must be one of {', '.join(get_args(kind))}, got {value}")
        if self.kv == "int8" and self.target != "ort-cpu":
            raise RequestError(f"kv int8 is for target ort-cpu, not {self.target}: leave it out")
        self.tensorrt.check_target(self.target)
        _ = self.chosen_recipe
        if self.max_length is not None and self.max_length < 1:
            raise RequestError(f"max length must be at least 1 token, got {self.max_length}")

    @property
    def chosen_recipe(self) -> Recipe:
        """The recipe that is built by; asking for it checks the options that choose it."""
        return self.recipe or preset(self.quant, self.group_size)

    @property
    def chosen_limits(self) -> Limits:
        """The limits that layers are raised for."""
        return self.limits or (Limits() if self.recipe else DEFAULT_LIMITS.get(self.quant, Limits()))

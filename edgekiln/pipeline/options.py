"""Options of a build. Imports nothing heavy, so that the command line can check them early."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from edgekiln import arguments
from edgekiln.calib.data.options import DataOptions
from edgekiln.calib.evaluation.options import QualityText
from edgekiln.calib.limits import Limits
from edgekiln.calib.presets import DEFAULT_LIMITS, preset
from edgekiln.calib.recipe import Recipe
from edgekiln.calib.tensorrt.options import TensorRTOptions
from edgekiln.errors import RequestError
from edgekiln.targets import DEFAULT_TARGET, TARGETS, find_target

# Values of `--kv`; "float32" means the target's own floating-point type.
CacheType = Literal["float32", "int8"]
_KINDS = {
    "recipe": Recipe,
    "data": DataOptions,
    "limits": Limits,
    "tensorrt": TensorRTOptions,
    "quality_text": QualityText,
}


@dataclass(frozen=True)
class BuildOptions:
    """Options of `build_engine`.

    Attributes:
        target: name of a row of `edgekiln.targets`.
        quant: name of a preset of `edgekiln.calib.presets`, or the name to record for `recipe`.
        group_size: consecutive inputs that share a scale, for presets with groups; None takes the preset's own.
        recipe: scheme of each layer, in place of a preset.
        data: calibration data, for recipes that are calibrated.
        limits: how much worse than float32 the engine may predict; without limits, the preset's own apply.
        kv: data type of the KV cache.
        max_length: tokens that a sequence may have; None takes the model's context length.
        tensorrt: options of targets trt and trt-rtx.
        quality_text: text on which the finished engine is compared with the float32 model; None skips that.
        force: replace an engine of another model.
        strict: refuse a model of which more than 5% of the parameters would stay in floating point.

    Raises:
        RequestError: an unknown name, a value out of range, or options that contradict each other.
    """

    target: str = DEFAULT_TARGET
    quant: str = "int8"
    group_size: int | None = None
    recipe: Recipe | None = None
    data: DataOptions = field(default_factory=DataOptions)
    limits: Limits = field(default_factory=Limits)
    kv: CacheType = "float32"
    max_length: int | None = None
    tensorrt: TensorRTOptions = field(default_factory=TensorRTOptions)
    quality_text: QualityText | None = None
    force: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) and not (value is None and name in ("recipe", "quality_text")):
                raise RequestError(f"{name} must be a {kind.__name__}, got {value!r:.60}")
        arguments.flag("force", self.force)
        arguments.flag("strict", self.strict)
        target = find_target(self.target)
        if self.kv not in get_args(CacheType):
            raise RequestError(f"kv must be one of {', '.join(get_args(CacheType))}, got {self.kv}")
        if self.kv == "int8" and "int8" not in target.kv_cache_types:
            able = ", ".join(row.name for row in TARGETS.values() if "int8" in row.kv_cache_types)
            raise RequestError(f"kv int8 is for target {able}, not {self.target}: leave it out")
        self.tensorrt.check_target(self.target)
        _ = self.chosen_recipe
        if self.max_length is not None and arguments.integer("max length", self.max_length) < 1:
            raise RequestError(f"max length must be at least 1 token, got {self.max_length}")

    @property
    def chosen_recipe(self) -> Recipe:
        """The recipe given, or else the preset; raises RequestError for a preset that does not exist."""
        return self.recipe or preset(self.quant, self.group_size)

    @property
    def chosen_limits(self) -> Limits:
        """The limits given, or else the preset's; layers are promoted to 8 bits until they hold."""
        return self.limits or (Limits() if self.recipe else DEFAULT_LIMITS.get(self.quant, Limits()))

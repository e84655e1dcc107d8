"""quantization.json and report.json of an engine: their fields, and reading them.

This module needs neither torch nor the model, so that a deployment can read the reports of its engines.
"""

from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import Field, ValidationError

from edgekiln.engine.directory import QUANTIZATION_FILE, REPORT_FILE
from edgekiln.engine.schema import Schema, version_error
from edgekiln.errors import EngineError

SCHEMA_VERSION: Final = 2
# The bins of every scale histogram have the same bounds, so that the histograms of layers can be added.
BINS_AN_OCTAVE = 2
ZERO_POINT_BINS = 16

Activation = Literal["none", "int8-per-token", "int8-static"]
# Tables that 4-bit codes index: e2m1 (FP4) and iq4_nl are of integers.
Codebook = Literal["nf4", "e2m1", "iq4_nl"]


class ScaleHistogram(Schema):
    """Number of scales per bin; bin i is [2^((first + i) / 2), 2^((first + i + 1) / 2))."""

    first: int = Field(description="index of the first bin in `counts`")
    counts: list[int] = Field(description="number of scales in each bin")


class LayerReport(Schema):
    """How one weight [out_features, in_features] was quantized, or the weights of all experts of a layer."""

    out_features: int = Field(gt=0)
    in_features: int = Field(gt=0)
    experts: int | None = Field(default=None, description="how many experts have a weight of this size; None for one")
    bits: int
    group_size: int | None = Field(description="input channels that share a scale; None: one scale per output channel")
    symmetric: bool
    activation: Activation
    group_bias: bool = Field(default=False, description="a float bias is added to each group's weights")
    act_order: bool = Field(default=False, description="the groups are of permuted input channels")
    codebook: Codebook | None = None
    scale_min: float
    scale_max: float
    scales: ScaleHistogram
    zero_points: list[int] | None = Field(
        default=None, description="histogram of the zero points in 16 equal bins; None if symmetric"
    )
    input_scale: float | None = Field(default=None, description="static activation scale of the layer's input")
    input_clipped: float | None = Field(
        default=None, description="share of the input outside the int8 range, on calibration data"
    )
    clipped: float = Field(description="share of the weights more than half a step outside the range of the codes")
    relative_error: float = Field(
        description="squared error of the weight over its sum of squares; 0 if a checkpoint's codes were kept"
    )
    expert_errors: list[float] | None = Field(default=None, description="`relative_error` of each expert")
    output_error: float | None = Field(
        default=None, description="squared error of the layer's output over its sum of squares, on calibration data"
    )

    @property
    def worst_expert(self) -> tuple[int, float] | None:
        """The expert with the largest error of its weight, and that error; None where no expert has one."""
        if not self.expert_errors or not max(self.expert_errors):
            return None
        return max(enumerate(self.expert_errors), key=lambda item: item[1])


class QuantizationReport(Schema):
    """quantization.json."""

    schema_version: Literal[2] = SCHEMA_VERSION
    scheme: str = Field(description="name of the recipe")
    group_size: int | None = Field(default=None, description="group size of most layers")
    layers: dict[str, LayerReport] = Field(description="the quantized layers, by module name")


class Quality(Schema):
    """How an engine predicts a text, compared with its model in float32.

    Perplexities are exp of the mean negative log-likelihood over `tokens` predicted tokens.
    """

    text: str = Field(description="name of the file")
    sha256: str = Field(description="SHA-256 of the file's bytes")
    window: int = Field(description="tokens that are scored together")
    tokens: int = Field(description="predicted tokens")
    perplexity_before: float | None = Field(description="of the model in float32; None if infinite")
    perplexity_after: float | None = Field(description="of the engine; None if infinite")
    kl_divergence: float = Field(description="mean KL(before || after) over the positions, in nats")
    same_top: float = Field(description="share of the positions at which both give the same token the largest logit")


class BuildReport(Schema):
    """report.json."""

    schema_version: Literal[2] = SCHEMA_VERSION
    build_seconds: float = Field(description="duration of the build")
    steps: dict[str, float] = Field(description="duration of each step in seconds")
    peak_rss_mb: float = Field(description="peak memory of the build, in MB (10^6 bytes)")
    sizes: dict[str, int] = Field(description="size of each file in bytes")
    step_weight_bytes: int | None = Field(
        default=None,
        description="bytes of weights that a decode step of one sequence reads; of experts those of the chosen ones",
    )
    notes: list[str] = Field(description="remarks, for instance on approximations")
    quality: Quality | None = Field(default=None, description="if the build was given a text to measure on")


def read_quantization(engine: Path) -> QuantizationReport:
    """Read quantization.json of an engine directory.

    Raises:
        EngineError: the file is missing, damaged, or of another schema version.
    """
    return _read(engine / QUANTIZATION_FILE, QuantizationReport)


def read_report(engine: Path) -> BuildReport:
    """Read report.json of an engine directory.

    Raises:
        EngineError: the file is missing, damaged, or of another schema version.
    """
    return _read(engine / REPORT_FILE, BuildReport)


def step_weight_bytes(engine: Path) -> int | None:
    """Bytes of weights that a decode step reads; None where the engine has no report.json that tells them."""
    try:
        return read_report(engine).step_weight_bytes
    except EngineError:
        return None


_Report = TypeVar("_Report", QuantizationReport, BuildReport)


def _read(path: Path, model: type[_Report]) -> _Report:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise EngineError(f"{path} is missing from the engine: build it again") from error
    except UnicodeDecodeError as error:
        raise EngineError(f"{path} is damaged (it is not UTF-8): build the engine again") from error
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        errors = error.errors()
        for entry in errors:
            if entry["loc"] == ("schema_version",):
                raise version_error(path, entry["input"], SCHEMA_VERSION) from error
        where = ".".join(str(part) for part in errors[0]["loc"])
        raise EngineError(
            f"{path} is damaged or from another edgekiln ({where + ': ' if where else ''}{errors[0]['msg']}): "
            "build the engine again"
        ) from error

"""quantization.json and report.json: what a build writes down, and reading it back.

Needs neither torch nor the model, so that a deployment can read the records of its engines.
"""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekiln.engine.directory import QUANTIZATION_FILE, REPORT_FILE
from edgekiln.errors import EngineError

SCHEMA_VERSION = 1
# Two bins an octave: fixed, so that the histograms of layers add up.
BINS_AN_OCTAVE = 2
ZERO_POINT_BINS = 16

Activation = Literal["none", "int8-per-token", "int8-static"]
Codebook = Literal["nf4"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScaleHistogram(_Record):
    """How many scales lie in each bin; bin i is [2^((first + i) / 2), 2^((first + i + 1) / 2))."""

    first: int
    counts: list[int]


class LayerRecord(_Record):
    """One quantized weight [rows, columns]."""

    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    bits: int
    group_size: int | None = Field(description="inputs that share a scale; None is one scale an output channel")
    symmetric: bool
    activation: Activation
    offsets: bool = Field(default=False, description="each group adds a float offset")
    ordered: bool = Field(default=False, description="the groups are of columns in an order of their own")
    codebook: Codebook | None = None
    scale_min: float
    scale_max: float
    scales: ScaleHistogram
    zero_points: list[int] | None = Field(
        default=None, description="histogram over the range of the codes, in 16 equal bins; None when symmetric"
    )
    input_scale: float | None = Field(default=None, description="of the layer's input, where it is static")
    input_clipped: float | None = Field(
        default=None, description="share of that input beyond the range of its codes, on calibration data"
    )
    clipped: float = Field(description="share of the weights more than half a step outside the range of their codes")
    relative_error: float = Field(description="squared error of the weight over its squares; 0 where its grid was kept")
    output_error: float | None = Field(
        default=None, description="squared error of the layer's output over its squares, on calibration data"
    )


class QuantizationRecord(_Record):
    """quantization.json."""

    schema_version: int = SCHEMA_VERSION
    scheme: str = Field(description="the name of the recipe")
    group_size: int | None = None
    layers: dict[str, LayerRecord]


class Quality(_Record):
    """How an engine predicts a text, beside its model in float32.

    Perplexities are exp of the mean negative log-likelihood over `tokens` predicted tokens.
    """

    text: str = Field(description="name of the file")
    sha256: str = Field(description="of the file's bytes")
    window: int
    tokens: int
    perplexity_before: float | None = Field(description="of the model in float32; None is infinite")
    perplexity_after: float | None = Field(description="of the engine; None is infinite")
    kl_divergence: float = Field(description="mean KL(before || after) over positions, in nats")
    same_top: float = Field(description="share of positions where both find the same token likeliest")


class BuildReport(_Record):
    """report.json."""

    schema_version: int = SCHEMA_VERSION
    build_seconds: float
    steps: dict[str, float] = Field(description="seconds by step")
    peak_rss_mb: float
    sizes: dict[str, int] = Field(description="bytes by file")
    notes: list[str]
    quality: Quality | None = Field(default=None, description="where the build was given a text to measure on")


def read_quantization(engine: Path) -> QuantizationRecord:
    """quantization.json of an engine directory.

    Raises:
        EngineError: missing, damaged, or from a newer edgekiln.
    """
    return _read(engine / QUANTIZATION_FILE, QuantizationRecord)


def read_report(engine: Path) -> BuildReport:
    """report.json of an engine directory.

    Raises:
        EngineError: missing, damaged, or from a newer edgekiln.
    """
    return _read(engine / REPORT_FILE, BuildReport)


_Model = TypeVar("_Model", QuantizationRecord, BuildReport)


def _read(path: Path, model: type[_Model]) -> _Model:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise EngineError(f"{path} is missing from the engine: build it again") from error
    except UnicodeDecodeError as error:
        raise EngineError(f"{path} is damaged (it is not UTF-8): build the engine again") from error
    try:
        record = model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("schema_version",):
            raise EngineError(f"{path} has schema version {first['input']!r}: build the engine again") from error
        where = ".".join(str(part) for part in first["loc"])
        # Fields of a later schema are no damage.
        raise EngineError(
            f"{path} is damaged or from another edgekiln ({where + ': ' if where else ''}{first['msg']}): "
            "build the engine again"
        ) from error
    if record.schema_version > SCHEMA_VERSION:
        raise EngineError(
            f"{path} has schema version {record.schema_version}, this edgekiln reads up to {SCHEMA_VERSION}: "
            "upgrade edgekiln"
        )
    return record

"""docs/engine-format.md lists every field of the JSON files, and no other."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from edgekiln.engine import graph_io, manifest, reports
from edgekiln.pipeline.chat_segments import ChatSegments

DOCUMENT = Path(__file__).parents[3] / "docs" / "engine-format.md"
# Heading -> the model whose fields its table lists.
MODELS: dict[str, type[BaseModel]] = {
    "engine.json": manifest.EngineManifest,
    "architecture": manifest.Architecture,
    "io": graph_io.GraphIO,
    "kv_cache": manifest.KVCacheSpec,
    "states": manifest.StateSpec,
    "tensorrt": manifest.TensorRTBuild,
    "quantization": manifest.QuantizationRecipe,
    "special_tokens": manifest.SpecialTokens,
    "sampling": manifest.SamplingDefaults,
    "quantization.json": reports.QuantizationReport,
    "layers": reports.LayerReport,
    "scales": reports.ScaleHistogram,
    "report.json": reports.BuildReport,
    "quality": reports.Quality,
    "chat_segments.json": ChatSegments,
}


def tables() -> dict[str, list[str]]:
    """Heading -> names in the first column of the section's table; sections without a table are left out."""
    found = {}
    for section in re.split(r"^#+ ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[2:]:
        names = re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)
        if names:
            found[section.splitlines()[0]] = names
    return found


def test_each_table_describes_a_model() -> None:
    assert tables().keys() == MODELS.keys()


@pytest.mark.parametrize("heading", MODELS)
def test_the_table_lists_the_fields_in_order(heading: str) -> None:
    assert tables()[heading] == list(MODELS[heading].model_fields)


def test_every_model_of_a_file_has_a_table() -> None:
    models = {
        value
        for module in (manifest, reports)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, manifest.Schema) and value is not manifest.Schema
    }
    assert models < set(MODELS.values())


def test_the_document_names_the_schema_version() -> None:
    sentence = f"has the schema version {manifest.SCHEMA_VERSION}, `quantization.json` and `report.json` have version"
    assert f"{sentence} {reports.SCHEMA_VERSION}." in DOCUMENT.read_text(encoding="utf-8")

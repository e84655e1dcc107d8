"""Describe a TensorRT plan, from engine.json and, where the plan can be opened, from the library's inspector."""

import json
from pathlib import Path
from typing import Any

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EdgekilnError


def plan_facts(directory: Path, manifest: EngineManifest) -> dict[str, Any]:
    """Library, compute capabilities, options and profiles of the plan, as JSON values.

    Where the plan can be opened, layers and activation memory too; otherwise `not_opened` is the reason. A plan can be
    opened only by the version of the library that built it, on a GPU that it was built for.
    """
    build = manifest.tensorrt
    assert build is not None
    length = manifest.architecture.max_length
    facts: dict[str, Any] = {
        "library": f"{build.library} {build.version}",
        "compute_capabilities": build.compute_capabilities,
        "options": build.options,
        "profiles": [
            {"name": "prefill", "batch": [1, 1], "tokens": [1, build.prefill_chunk], "past": [0, length - 1]},
            {"name": "decode", "batch": [1, build.max_batch], "tokens": [1, 1], "past": [0, length - 1]},
        ],
        "layers": [],
        "not_opened": None,
    }
    try:
        facts |= _opened(directory / manifest.graphs["plan"], manifest.target)
    except EdgekilnError as error:
        facts["not_opened"] = str(error)
    return facts


def _opened(path: Path, target: str) -> dict[str, Any]:
    from edgekiln.runtimes.cuda.cuda_device import open_device
    from edgekiln.runtimes.tensorrt.library import load_library

    library = load_library(target)
    open_device(extra=target)
    plan = library.deserialize(path)
    inspector = plan.create_engine_inspector()
    information = json.loads(inspector.get_engine_information(library.module.LayerInformationFormat.JSON))
    profiles = range(plan.num_optimization_profiles)
    return {
        "layers": information.get("Layers", []),
        "activation_mb": [plan.get_device_memory_size_for_profile_v2(index) / 1e6 for index in profiles],
    }

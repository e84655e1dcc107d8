"""What a TensorRT plan is: from engine.json, and from the library's inspector where the plan can be opened."""

import json
from pathlib import Path
from typing import Any

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EdgekilnError


def plan_facts(directory: Path, manifest: EngineManifest) -> dict[str, Any]:
    """Library, GPUs, profiles and memory of the plan; its layers where it can be opened, else why it cannot.

    A plan is opened only by the version that made it and on a GPU that it was made for.
    """
    build = manifest.tensorrt
    assert build is not None
    length = manifest.architecture.max_length
    facts: dict[str, Any] = {
        "library": f"{build.library} {build.version}",
        "compute_capabilities": build.compute_capabilities,
        "options": build.options,
        "profiles": [
            {"name": "prefill", "rows": [1, 1], "tokens": [1, build.prefill_chunk], "held": [0, length - 1]},
            {"name": "decode", "rows": [1, build.max_batch], "tokens": [1, 1], "held": [0, length - 1]},
        ],
        "layers": [],
        "not_opened": None,
    }
    try:
        facts |= _opened(directory / manifest.graphs["plan"], manifest.target)
    except EdgekilnError as error:
        facts["not_opened"] = str(error)
    return facts


def _opened(plan: Path, target: str) -> dict[str, Any]:
    from edgekiln.runtimes.cuda.cuda_device import open_device
    from edgekiln.runtimes.tensorrt.library import load_library

    library = load_library(target)
    open_device(extra=target)
    engine = library.deserialize(plan)
    inspector = engine.create_engine_inspector()
    told = json.loads(inspector.get_engine_information(library.module.LayerInformationFormat.JSON))
    profiles = range(engine.num_optimization_profiles)
    return {
        "layers": told.get("Layers", []),
        "activation_mb": [engine.get_device_memory_size_for_profile_v2(index) / 1e6 for index in profiles],
    }

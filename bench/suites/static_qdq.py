"""Build an int8-static engine with QuantizeLinear/DequantizeLinear nodes, the form that TensorRT fuses.

    python -m bench.suites.static_qdq smollm2-135m -o engines/qdq
    edgekiln eval engines/qdq --text TEXT --window 512 --max-tokens 20480

ONNX Runtime computes such a graph in float32, slowly; codes, scales and rounding are those of `--quant int8-static`.
"""

import argparse
import dataclasses
from pathlib import Path

from edgekiln.calib.limits import Limits
from edgekiln.engine.directory import atomic_directory
from edgekiln.export.passes.onnx.static_int8 import LowerStaticInt8ToQDQ
from edgekiln.pipeline.assemble import canonical_graph, write_engine
from edgekiln.pipeline.calibration import calibrated
from edgekiln.pipeline.options import BuildOptions
from edgekiln.progress import StepTimer
from edgekiln.sources.resolve import resolve


def main() -> None:
    """Build the engine that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    options = BuildOptions(quant="int8-static")
    timer = StepTimer()
    source, recipe = calibrated(
        resolve(arguments.model), options.chosen_recipe, options.data, Limits(), lambda step, done: None
    )
    options = dataclasses.replace(options, recipe=recipe)
    with atomic_directory(arguments.output) as directory:
        canonical = canonical_graph(source, options, timer)
        LowerStaticInt8ToQDQ()(canonical.graph)
        write_engine(canonical, source, directory, options, timer)


if __name__ == "__main__":
    main()

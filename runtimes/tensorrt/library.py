"""One interface to the packages tensorrt and tensorrt_rtx, which share their API.

They differ in two ways: tensorrt_rtx compiles kernels just in time for the shapes it runs, and it can capture CUDA
graphs by itself, while with tensorrt the caller captures them.
"""

import functools
import importlib
from pathlib import Path
from typing import Any

from edgekiln.errors import EdgekilnError, EngineError, first_line

# Target -> Python modules of its library; the first that imports is used. The extra has the name of the target.
MODULES = {"trt": ("tensorrt",), "trt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
_MAX_ERRORS = 16


class TensorRTLibrary:
    """A loaded TensorRT library.

    Attributes:
        name: "tensorrt" or "tensorrt_rtx".
        version: as the module states it, e.g. "10.14.1.48".
        captures_by_itself: execution contexts made for replay capture their runs as CUDA graphs; the caller must not.
        module: the Python module.
        log: the ILogger of every object that the library creates; it keeps error messages.
    """

    def __init__(self, target: str, module: Any) -> None:
        self.name = MODULES[target][0]
        self.version = str(module.__version__)
        self.captures_by_itself = self.name == "tensorrt_rtx"
        self.module = module
        self.log = _make_log(module)
        self._runtime: Any = None

    def deserialize(self, path: Path, weights: Path | None = None) -> Any:
        """Deserialize a plan file to an ICudaEngine.

        Args:
            path: the plan file.
            weights: ONNX file to refit a weight-stripped plan with; None for a plan with weights.

        Raises:
            EngineError: with the first line of the library's error message.
        """
        self.log.errors.clear()
        try:
            # One IRuntime for all plans, because it must outlive them.
            self._runtime = self._runtime or self.module.Runtime(self.log)
            plan = self._runtime.deserialize_cuda_engine(path.read_bytes())
        except Exception as error:
            raise EngineError(first_line(error)) from error
        if plan is None:
            raise EngineError(self.last_errors())
        if weights is not None:
            self._refit(plan, weights)
        return plan

    def _refit(self, plan: Any, weights: Path) -> None:
        refitter = self.module.Refitter(plan, self.log)
        parsed = self.module.OnnxParserRefitter(refitter, self.log).refit_from_file(str(weights))
        if not parsed or not refitter.refit_cuda_engine():
            raise EngineError(f"the weights of {weights.name} do not fit: {self.last_errors()}")

    def make_context(self, plan: Any, replay: bool) -> Any:
        """Create an execution context (IExecutionContext) that allocates the memory its optimization profile needs.

        Args:
            plan: made by `deserialize`.
            replay: all runs will have the same shapes and addresses, so that a CUDA graph can replay them.

        Raises:
            EdgekilnError: not enough memory.
        """
        self.log.errors.clear()
        strategy = self.module.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        if replay and self.captures_by_itself:
            config = plan.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            config.cuda_graph_strategy = self.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = plan.create_execution_context(config)
        else:
            context = plan.create_execution_context(strategy)
        if context is None:
            raise EdgekilnError(f"{self.name} made no execution context: {self.last_errors()}")
        return context

    @property
    def errors(self) -> list[str]:
        """Error messages logged since the list was last cleared. Callers clear it before a call of interest."""
        errors: list[str] = self.log.errors
        return errors

    def last_errors(self) -> str:
        """First line of the first error logged since the list was cleared, or "it does not say why"."""
        return first_line(Exception(self.log.errors[0])) if self.log.errors else "it does not say why"


@functools.cache
def load_library(target: str) -> TensorRTLibrary:
    """Load the library that runs `target`, once per process: TensorRT has one logger per process.

    Raises:
        EdgekilnError: the Python module or a shared library that it needs is missing.
    """
    for name in MODULES[target]:
        try:
            return TensorRTLibrary(target, importlib.import_module(name))
        except ModuleNotFoundError as error:
            if error.name != name:
                raise _unusable(target, name, error) from error
        except Exception as error:
            raise _unusable(target, name, error) from error
    raise EdgekilnError(f"target {target} needs the module {MODULES[target][0]}: pip install 'edgekiln[{target}]'")


def _unusable(target: str, name: str, error: Exception) -> EdgekilnError:
    return EdgekilnError(
        f"the module {name} is installed but cannot be loaded ({first_line(error)}): "
        f"pip install --force-reinstall 'edgekiln[{target}]'"
    )


def _make_log(module: Any) -> Any:
    """An ILogger that keeps error messages and prints nothing."""
    severity = module.ILogger.Severity
    kept = (severity.ERROR, severity.INTERNAL_ERROR)

    class Log(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in kept and len(self.errors) < _MAX_ERRORS:
                self.errors.append(msg)

    return Log()

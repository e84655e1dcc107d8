"""The packages tensorrt and tensorrt_rtx behind one face; nothing else of the adapter knows which it is.

They have one API. What differs: tensorrt_rtx compiles kernels as it meets shapes and records CUDA graphs by itself when
told to; with tensorrt the caller records.
"""

import functools
import importlib
from pathlib import Path
from typing import Any

from edgekiln.errors import EdgekilnError, EngineError, first_line

# target -> modules that may carry its library, the first that imports; the extra has the name of the target.
MODULES = {"trt": ("tensorrt",), "trt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
_KEPT_ERRORS = 16


class Library:
    """A loaded library.

    Attributes:
        name: tensorrt or tensorrt_rtx.
        version: its version.
        records_by_itself: a context made for replaying records its runs, and the caller must not.
        module: the Python module.
        log: the ILogger that keeps errors, of all that the library makes here.
    """

    def __init__(self, target: str, module: Any) -> None:
        self.name = MODULES[target][0]
        self.version = str(module.__version__)
        self.records_by_itself = self.name == "tensorrt_rtx"
        self.module = module
        self.log = _make_log(module)
        self._runtime: Any = None

    def deserialize(self, plan: Path, weights: Path | None = None) -> Any:
        """The engine (ICudaEngine) of a plan file; one without weights gets those of the ONNX file `weights`.

        Raises:
            EngineError: with the library's own first words on why it refuses.
        """
        self.log.errors.clear()
        try:
            # One for all engines: it must outlive them.
            self._runtime = self._runtime or self.module.Runtime(self.log)
            engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        except Exception as error:
            raise EngineError(first_line(error)) from error
        if engine is None:
            raise EngineError(self.last_errors())
        if weights is not None:
            self._put_in(engine, weights)
        return engine

    def _put_in(self, engine: Any, weights: Path) -> None:
        refitter = self.module.Refitter(engine, self.log)
        taken = self.module.OnnxParserRefitter(refitter, self.log).refit_from_file(str(weights))
        if not taken or not refitter.refit_cuda_engine():
            raise EngineError(f"the weights of {weights.name} do not fit: {self.last_errors()}")

    def make_context(self, engine: Any, replayed: bool) -> Any:
        """An execution context (IExecutionContext) whose memory is what its profile takes.

        Args:
            engine: of `deserialize`.
            replayed: it will run one shape at one set of addresses over and over.

        Raises:
            EdgekilnError: there is no memory for it.
        """
        self.log.errors.clear()
        strategy = self.module.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        if replayed and self.records_by_itself:
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            config.cuda_graph_strategy = self.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(strategy)
        if context is None:
            raise EdgekilnError(f"{self.name} made no execution context: {self.last_errors()}")
        return context

    @property
    def errors(self) -> list[str]:
        """What was logged as an error; cleared by whoever wants to know about one call."""
        errors: list[str] = self.log.errors
        return errors

    def last_errors(self) -> str:
        """The first line of what was logged as an error since the last call, or that nothing was."""
        return first_line(Exception(self.log.errors[0])) if self.log.errors else "it does not say why"


@functools.cache
def load_library(target: str) -> Library:
    """The library that runs `target`; one a process, as the library itself keeps one logger.

    Raises:
        EdgekilnError: it is not installed, or its shared libraries are not.
    """
    for name in MODULES[target]:
        try:
            return Library(target, importlib.import_module(name))
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
    """A logger that keeps errors for our own messages and prints nothing."""
    severity = module.ILogger.Severity
    worth_keeping = (severity.ERROR, severity.INTERNAL_ERROR)

    class Log(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in worth_keeping and len(self.errors) < _KEPT_ERRORS:
                self.errors.append(msg)

    return Log()

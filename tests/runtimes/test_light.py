"""A deployment has neither torch nor transformers nor onnx: running engines may not ask for them."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "huggingface_hub")
MODULES = (
    "edgekiln.runtimes",
    "edgekiln.runtimes.ort.cpu",
    "edgekiln.runtimes.generate",
    "edgekiln.runtimes.generate.conversation",
    "edgekiln.runtimes.text.chat_template",
)


@pytest.mark.parametrize("module", MODULES)
def test_importing_brings_nothing_heavy(module):
    script = f"import sys, {module}; print(*(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == ""


def test_without_the_library_of_a_target_the_error_says_what_to_install(engine):
    script = f"""
import sys
sys.modules["onnxruntime"] = None
from edgekiln import runtimes
from edgekiln.errors import EdgekilnError
try:
    runtimes.open({str(engine)!r})
except EdgekilnError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "target ort-cpu needs the module onnxruntime: pip install 'edgekiln[cpu]'"

"""Running engines must not import torch, transformers or onnx, which a deployment does not install."""

import subprocess
import sys

HEAVY = ("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "huggingface_hub")


def test_no_module_imports_a_heavy_package():
    script = f"""
import importlib, pkgutil, sys
from edgekiln import runtimes
modules = pkgutil.walk_packages(runtimes.__path__, "edgekiln.runtimes.")
names = ["edgekiln.runtimes", *(module.name for module in modules)]
for name in names:
    importlib.import_module(name)
    for heavy in set({HEAVY!r}) & set(sys.modules):
        print(name, "imports", heavy)
print(len(names), "modules")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    *imports, count = result.stdout.splitlines()
    assert imports == []
    assert int(count.split()[0]) > 30


def test_a_missing_library_names_the_extra_to_install(engine):
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

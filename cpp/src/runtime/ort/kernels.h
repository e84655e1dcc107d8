// Locates libedgekiln_ops, the custom-op library with edgekiln's kernels.
//
// It registers kernels under the names of ONNX Runtime's operators, and ONNX Runtime prefers them. Graphs therefore
// stay valid for an ONNX Runtime without the library. Counterpart of runtimes/ort/kernels.py.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "util/result.h"

namespace edgekiln {

// The value of Runtime::kernels() if ONNX Runtime's own kernels run the graph, also in EDGEKILN_ISA.
constexpr char kOnnxRuntime[] = "onnxruntime";

struct KernelLibrary {
  std::filesystem::path path;
  std::string instruction_set;  // the one that its kernels use on this processor, as "avx512bf16"
  bool complete;                // no op is left to ONNX Runtime on that instruction set
};

// The library at `path`, or with an empty path libedgekiln_ops.so in the folder of the calling library. Empty if an
// empty path finds none, and with the environment variable EDGEKILN_ISA=onnxruntime. Fails if `path` is no library of
// kernels, and if EDGEKILN_ISA names an instruction set that the processor or the library does not support.
Result<std::optional<KernelLibrary>> kernel_library(const std::filesystem::path& path);

}  // namespace edgekiln

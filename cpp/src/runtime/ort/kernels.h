// Locates libedgekiln_ops, the custom-op library with edgekiln's kernels.
//
// It registers kernels under the names of ONNX Runtime's operators, and ONNX Runtime prefers them. Graphs therefore
// stay valid for an ONNX Runtime without the library.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace edgekiln {

// The value of Runtime::kernels() if ONNX Runtime's own kernels run the graph.
constexpr char kOnnxRuntime[] = "onnxruntime";

struct KernelLibrary {
  std::filesystem::path path;
  std::string instruction_set;  // the one that its kernels use on this processor, as "avx512bf16"
};

// The library at `path`, or with an empty path libedgekiln_ops.so in the folder of the calling library. Empty if it
// does not exist or cannot be loaded.
std::optional<KernelLibrary> kernel_library(const std::filesystem::path& path);

}  // namespace edgekiln

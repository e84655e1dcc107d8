// edgekiln's own ONNX Runtime kernels: a library that registers kernels under the names of ONNX Runtime's own.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace edgekiln {

// The name of the kernels that a runtime brings itself.
constexpr char kStock[] = "stock";

struct NativeKernels {
  std::filesystem::path library;
  std::string instruction_set;  // the one its kernels use on this processor
};

// The library at `path`; without a path, the one beside the code that calls. Empty where the system cannot load it.
std::optional<NativeKernels> native_kernels(const std::filesystem::path& path);

}  // namespace edgekiln

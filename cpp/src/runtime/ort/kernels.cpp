#include "runtime/ort/kernels.h"

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "util/shared_library.h"
#include "util/str_cat.h"

namespace edgekiln {

namespace {

namespace fs = std::filesystem;

constexpr char kLibrary[] = "libedgekiln_ops.so";
// The environment variable that names the instruction set to use.
constexpr char kIsaVariable[] = "EDGEKILN_ISA";

// The library's functions; null if the library cannot be loaded or is another one.
struct Functions {
  SharedLibrary library;
  const char* (*error)() = nullptr;
  const char* (*instruction_set)() = nullptr;
  const char* (*description)() = nullptr;

  explicit Functions(const fs::path& path) : library(SharedLibrary::open(path)) {
    if (!library) return;
    error = library.symbol<const char*()>("edgekiln_ops_error");
    instruction_set = library.symbol<const char*()>("edgekiln_ops_instruction_set");
    description = library.symbol<const char*()>("edgekiln_ops_description");
  }

  explicit operator bool() const { return error && instruction_set && description; }
};

// Whether all ops of a description are registered; ort_ops/description.h says what it contains.
bool registers_all(const char* description) {
  const auto ops = nlohmann::json::parse(description).at("ops");
  return std::all_of(ops.begin(), ops.end(), [](const auto& op) { return op.at("registered").template get<bool>(); });
}

}  // namespace

Result<std::optional<KernelLibrary>> kernel_library(const fs::path& path) {
  const fs::path library = path.empty() ? own_folder() / kLibrary : path;
  const Functions functions(library);
  if (!functions) {
    if (!path.empty())
      return fail(Code::kRequest, path.string(),
                  " is no library of edgekiln's kernels: build it with `make kernels`, or leave it out");
    const char* const variable = std::getenv(kIsaVariable);
    const std::string_view chosen = variable ? variable : "";
    if (!chosen.empty() && chosen != kOnnxRuntime)
      return fail(Code::kRequest, kIsaVariable, " must be onnxruntime or unset without edgekiln's kernels, got ",
                  chosen);
    return std::nullopt;
  }
  if (const char* const error = functions.error()) return fail(Code::kRequest, error);
  const std::string name = functions.instruction_set();
  if (name == kOnnxRuntime) return std::nullopt;
  return KernelLibrary{library, name, registers_all(functions.description())};
}

}  // namespace edgekiln

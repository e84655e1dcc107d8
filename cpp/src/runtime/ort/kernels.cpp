#include "runtime/ort/kernels.h"

#include <dlfcn.h>

#include <memory>

namespace edgekiln {

namespace {

namespace fs = std::filesystem;

constexpr char kLibrary[] = "libedgekiln_ops.so";

// The folder of the shared library or executable that contains this code.
fs::path own_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<const void*>(&kernel_library), &info) || !info.dli_fname) return {};
  return fs::path(info.dli_fname).parent_path();
}

}  // namespace

std::optional<KernelLibrary> kernel_library(const fs::path& path) {
  const fs::path library = path.empty() ? own_folder() / kLibrary : path;
  const std::unique_ptr<void, int (*)(void*)> handle(dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL), &dlclose);
  if (!handle) return std::nullopt;
  using Name = const char* (*)();
  const auto name = reinterpret_cast<Name>(dlsym(handle.get(), "edgekiln_ops_instruction_set"));
  if (!name) return std::nullopt;
  return KernelLibrary{library, name()};
}

}  // namespace edgekiln

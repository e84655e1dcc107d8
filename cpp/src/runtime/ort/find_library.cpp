#include "runtime/ort/find_library.h"

#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "util/shared_library.h"
#include "util/str_cat.h"

namespace edgekiln {

namespace {

namespace fs = std::filesystem;

using EntryPoint = decltype(OrtGetApiBase);

constexpr char kEntryPoint[] = "OrtGetApiBase";
constexpr char kVariable[] = "EDGEKILN_ONNXRUNTIME";
#if defined(_WIN32)
constexpr char kName[] = "onnxruntime.dll";
#elif defined(__APPLE__)
constexpr char kName[] = "libonnxruntime.dylib";
#elif defined(__ANDROID__)
constexpr char kName[] = "libonnxruntime.so";
#else
constexpr char kName[] = "libonnxruntime.so.1";
#endif

// Files of the `onnxruntime` package of the Python environment whose `edgekiln` package contains `folder`. The package
// has the library under its full version, which the system's loader does not search for.
std::vector<fs::path> of_python_package(const fs::path& folder) {
  constexpr std::string_view kPrefix = "libonnxruntime.";  // not libonnxruntime_providers_shared.so
  std::vector<fs::path> found;
  std::error_code absent;
  const fs::path packages = folder.parent_path().parent_path().parent_path();
  for (const auto& file : fs::directory_iterator(packages / "onnxruntime" / "capi", absent)) {
    const std::string name = file.path().filename().string();
    if (name.starts_with(kPrefix) || name == kName) found.push_back(file.path());
  }
  return found;
}

const OrtApiBase* opened(const fs::path& path, std::string* why = nullptr) {
  // Never closed, since ONNX Runtime has threads of its own.
  static std::vector<SharedLibrary> libraries;
  SharedLibrary library = SharedLibrary::open(path, why);
  if (!library) return nullptr;
  const auto entry = library.symbol<EntryPoint>(kEntryPoint);
  if (entry == nullptr) {
    if (why != nullptr) *why = str_cat("it has no function ", kEntryPoint);
    return nullptr;
  }
  libraries.push_back(std::move(library));
  return entry();
}

Result<const OrtApiBase*> find() {
  if (const char* const path = std::getenv(kVariable); path != nullptr && *path != '\0') {
    std::string why;
    if (const OrtApiBase* base = opened(path, &why)) return base;
    return fail(Code::kRuntime, kVariable, " must be the path of ONNX Runtime's library, got ", path, ": ", why);
  }
  if (const auto entry = SharedLibrary::symbol_of_program<EntryPoint>(kEntryPoint)) return entry();
  const fs::path folder = own_folder();
  std::vector<fs::path> candidates = of_python_package(folder);
  candidates.insert(candidates.begin(), folder / kName);
  candidates.emplace_back(kName);
  std::error_code absent;
  for (const fs::path& candidate : candidates) {
    if (candidate.has_parent_path() && !fs::exists(candidate, absent)) continue;
    if (const OrtApiBase* base = opened(candidate)) return base;
  }
  return fail(Code::kRuntime, "ONNX Runtime is not found: put ", kName,
              " beside libedgekiln, install it for the system,", " or set ", kVariable, " to its path");
}

}  // namespace

Result<const OrtApiBase*> onnxruntime_library() {
  static const Result<const OrtApiBase*> library = find();
  return library;
}

}  // namespace edgekiln

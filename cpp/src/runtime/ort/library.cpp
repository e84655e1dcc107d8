#include "runtime/ort/library.h"

#include <cstdlib>
#include <cstring>

#include "runtime/ort/find_library.h"

namespace edgekiln {

namespace {

constexpr char kDisableTelemetry[] = "ORT_DISABLE_TELEMETRY";

// ONNX Runtime reads the variable when a process creates its first environment, perhaps one of the application's own.
// Libraries are initialized before the program has other threads, which may read variables while one is set. An empty
// variable counts as not set.
[[gnu::constructor]] void disable_telemetry() {
  const char* const chosen = std::getenv(kDisableTelemetry);
  if (!chosen || !*chosen) setenv(kDisableTelemetry, "1", 1);
}

}  // namespace

Result<void> ort_ready() {
  const auto library = onnxruntime_library();
  if (!library) return std::unexpected(library.error());
  static const OrtApi* const api = [&] {
    const OrtApi* found = (*library)->GetApi(ORT_API_VERSION);
    if (found) Ort::InitApi(found);
    return found;
  }();
  if (api) {
    // The environment owns the default logger, which other calls use.
    static_cast<void>(ort_environment());
    return {};
  }
  return fail(Code::kRuntime, ort_name(), " is older than the one this library was built for (interface ",
              ORT_API_VERSION, "): install a newer libonnxruntime");
}

Ort::Env& ort_environment() {
  // Never destroyed, since static objects of the application may close engines after static destructors ran here.
  // Failures are returned to the caller, so the log level keeps ONNX Runtime from printing them as well.
  static Ort::Env& environment = []() -> Ort::Env& {
    auto& created = *new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "edgekiln");
    // If the application had an environment before it loaded this library, this is that one.
    const char* const disabled = std::getenv(kDisableTelemetry);
    if (disabled && std::strcmp(disabled, "1") == 0) created.DisableTelemetryEvents();
    return created;
  }();
  return environment;
}

std::string ort_name() {
  const auto library = onnxruntime_library();
  return library ? str_cat("ONNX Runtime ", (*library)->GetVersionString()) : "ONNX Runtime";
}

Result<std::filesystem::path> graph_path(const std::filesystem::path& directory, const Manifest& manifest,
                                         const std::string& role) {
  const auto graph = manifest.graphs.find(role);
  if (graph != manifest.graphs.end()) return directory / graph->second;
  return fail(Code::kEngine, directory.string(), " has no ", role, " graph: build the engine again");
}

Result<Ort::Session> load_graph(const std::filesystem::path& path, const Ort::SessionOptions& options) {
  try {
    return Ort::Session(ort_environment(), path.c_str(), options);
  } catch (const Ort::Exception& error) {
    return fail(Code::kEngine, ort_name(), " cannot load ", path.string(), ": ", first_line(error.what()));
  }
}

std::string first_line(const std::string& message) {
  const std::size_t start = message.find_first_not_of(" \t\r\n");
  if (start == std::string::npos) return "no reason given";
  return message.substr(start, message.find_first_of("\r\n", start) - start);
}

}  // namespace edgekiln

#include "runtime/ort/library.h"

namespace edgekiln {

Result<void> ort_ready() {
  static const OrtApi* const api = [] {
    const OrtApi* found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (found) Ort::InitApi(found);
    return found;
  }();
  if (api) {
    // It brings the log that other calls write to.
    static_cast<void>(ort_environment());
    return {};
  }
  return Error{Code::kRuntime, sentence(ort_name(), " is older than the one this library was built for (interface ",
                                        ORT_API_VERSION, "): install a newer libonnxruntime")};
}

Ort::Env& ort_environment() {
  // Never destroyed: an application's own static objects may end engines after it would be. What goes wrong is
  // returned; the library would print it too.
  static Ort::Env& environment = *new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "edgekiln");
  return environment;
}

std::string ort_name() { return sentence("ONNX Runtime ", OrtGetApiBase()->GetVersionString()); }

Result<std::filesystem::path> graph_path(const std::filesystem::path& directory, const Manifest& manifest,
                                         const std::string& role) {
  const auto graph = manifest.graphs.find(role);
  if (graph != manifest.graphs.end()) return directory / graph->second;
  return Error{Code::kEngine, sentence(directory.string(), " has no ", role, " graph: build the engine again")};
}

Result<Ort::Session> load_graph(const std::filesystem::path& path, const Ort::SessionOptions& options) {
  try {
    return Ort::Session(ort_environment(), path.c_str(), options);
  } catch (const Ort::Exception& error) {
    return Error{Code::kEngine, sentence(ort_name(), " cannot load ", path.string(), ": ", first_line(error.what()))};
  }
}

std::string first_line(const std::string& message) {
  const std::size_t start = message.find_first_not_of(" \t\r\n");
  if (start == std::string::npos) return "no reason given";
  return message.substr(start, message.find_first_of("\r\n", start) - start);
}

}  // namespace edgekiln

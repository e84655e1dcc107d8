#include "runtime/ort_library.h"

#include "sentence.h"

namespace edgekiln {

Result<void> ort_ready() {
  static const OrtApi* const api = [] {
    const OrtApi* found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (found) Ort::InitApi(found);
    return found;
  }();
  if (api) return {};
  return Error{Code::kRuntime, sentence("ONNX Runtime ", OrtGetApiBase()->GetVersionString(),
                                        " is older than the one this library was built for (interface ",
                                        ORT_API_VERSION, "): install a newer libonnxruntime")};
}

Ort::Env& ort_environment() {
  // Never destroyed: an application's own static objects may end engines after it would be.
  static Ort::Env& environment = *new Ort::Env(ORT_LOGGING_LEVEL_ERROR, "edgekiln");
  return environment;
}

std::string first_line(const std::string& message) {
  const std::size_t start = message.find_first_not_of(" \t\r\n");
  if (start == std::string::npos) return "no reason given";
  return message.substr(start, message.find_first_of("\r\n", start) - start);
}

}  // namespace edgekiln

// ONNX Runtime's C++ API, with its exceptions turned into results.
#pragma once

// The library at run time may be older than these headers. Without manual initialization the headers check that in a
// static initializer, whose exception nobody can catch; `ort_ready` checks it instead.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <filesystem>
#include <string>

#include "engine/manifest.h"
#include "util/result.h"
#include "util/str_cat.h"

namespace edgekiln {

// Initialize the API. Call it before any other ONNX Runtime call. An error of Code::kRuntime if there is no library, or
// if it is older than the headers.
[[nodiscard]] Result<void> ort_ready();

// The environment, one a process. ONNX Runtime's telemetry is off unless the environment variable
// ORT_DISABLE_TELEMETRY is set to 0.
Ort::Env& ort_environment();

// The library's name and version, for messages.
std::string ort_name();

// Path of the graph of `role`; an error of Code::kEngine if the engine has none.
Result<std::filesystem::path> graph_path(const std::filesystem::path& directory, const Manifest& manifest,
                                         const std::string& role);

// A session of the graph at `path`; an error of Code::kEngine if ONNX Runtime refuses it.
Result<Ort::Session> load_graph(const std::filesystem::path& path, const Ort::SessionOptions& options);

// The first non-blank line of a library's message, which may be pages long.
std::string first_line(const std::string& message);

// Call `body`; an error of Code::kRuntime if it throws Ort::Exception.
template <typename Body>
[[nodiscard]] Result<void> ort_running(Body body) {
  try {
    body();
  } catch (const Ort::Exception& error) {
    return fail(Code::kRuntime, "ONNX Runtime failed while running the engine: ", first_line(error.what()));
  }
  return {};
}

}  // namespace edgekiln

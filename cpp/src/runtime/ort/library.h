// ONNX Runtime's C++ interface, and its failures as results.
#pragma once

// The headers may be newer than the library that is found where the program runs: `ort_ready` looks before the first
// call, where the headers themselves would look at no time one can catch.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <filesystem>
#include <string>

#include "engine/manifest.h"
#include "util/result.h"
#include "util/str_cat.h"

namespace edgekiln {

// Make the interface usable; an error of Code::kRuntime if the library is older than its headers.
Result<void> ort_ready();

// The process's environment, of which ONNX Runtime wants one.
Ort::Env& ort_environment();

// The library's name and version, as sentences say it.
std::string ort_name();

// Where the graph of a role is, or an error of Code::kEngine if the engine has none.
Result<std::filesystem::path> graph_path(const std::filesystem::path& directory, const Manifest& manifest,
                                         const std::string& role);

// A session of a graph; an error of Code::kEngine if ONNX Runtime refuses it.
Result<Ort::Session> load_graph(const std::filesystem::path& path, const Ort::SessionOptions& options);

// The first line with something in it of a library's message, which may go on for pages.
std::string first_line(const std::string& message);

// What `body` does while an engine runs; an error of Code::kRuntime if ONNX Runtime fails.
template <typename Body>
Result<void> ort_running(Body body) {
  try {
    body();
  } catch (const Ort::Exception& error) {
    return Error{Code::kRuntime, sentence("ONNX Runtime failed while running the engine: ", first_line(error.what()))};
  }
  return {};
}

}  // namespace edgekiln

// ONNX Runtime's C++ interface, and its failures as results.
#pragma once

// The headers may be newer than the library that is found where the program runs: `ort_ready` looks before the first
// call, where the headers themselves would look at no time one can catch.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <string>

#include "result.h"

namespace edgekiln {

// Make the interface usable; an error of Code::kRuntime if the library is older than its headers.
Result<void> ort_ready();

// The process's environment, of which ONNX Runtime wants one.
Ort::Env& ort_environment();

// The first line with something in it of a library's message, which may go on for pages.
std::string first_line(const std::string& message);

}  // namespace edgekiln

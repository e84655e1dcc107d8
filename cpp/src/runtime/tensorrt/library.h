// TensorRT's library, loaded where the program runs, so that programs start without it.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <mutex>
#include <string>

#include "util/result.h"

namespace edgekiln {

// Keeps the first error for our own messages and prints nothing.
class TensorRTLog final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override;
  void clear();

  // Since the last clear().
  std::string first_error() const;

 private:
  mutable std::mutex mutex_;
  std::string error_;
};

// The library of the process, which keeps one log.
class TensorRTLibrary {
 public:
  // An error of Code::kUnsupported if it is missing.
  static Result<TensorRTLibrary*> get();

  // As engine.json has it: 10.14.1.48.
  const std::string& version() const { return version_; }

  // The engine of a plan; an error of Code::kEngine with the library's own first words.
  Result<std::unique_ptr<nvinfer1::ICudaEngine>> deserialize(const std::string& plan);

  // A context whose memory is what its profile takes.
  Result<std::unique_ptr<nvinfer1::IExecutionContext>> make_context(nvinfer1::ICudaEngine& engine);

  // An error of Code::kRuntime: `what` the library does not do, and why.
  Error refused(const std::string& what) const;

 private:
  TensorRTLibrary() = default;
  static Result<TensorRTLibrary*> load();

  TensorRTLog log_;
  std::string version_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
};

}  // namespace edgekiln

// TensorRT's library, loaded with dlopen when the first engine is opened, so that programs start without it.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <mutex>
#include <string>

#include "util/result.h"

namespace edgekiln {

// A logger that keeps the first error for edgekiln's messages and prints nothing. Thread-safe.
class TensorRTLog final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override;
  void clear();

  // The first error since the last clear(), or a placeholder.
  std::string first_error() const;

 private:
  mutable std::mutex mutex_;
  std::string error_;
};

// The process's TensorRT library with its runtime and logger.
class TensorRTLibrary {
 public:
  // Load the library on the first call. An error of Code::kUnsupported if it is missing.
  static Result<TensorRTLibrary*> get();

  // As in engine.json, for example "10.14.1.48".
  const std::string& version() const { return version_; }

  // Deserialize a plan; an error of Code::kEngine with the first message that the library logged.
  Result<std::unique_ptr<nvinfer1::ICudaEngine>> deserialize(const std::string& plan);

  // An execution context that allocates its memory when its optimization profile is set.
  Result<std::unique_ptr<nvinfer1::IExecutionContext>> make_context(nvinfer1::ICudaEngine& engine);

  // An error of Code::kRuntime: the library failed in `action`, with the reason that it logged.
  Failure refused(const std::string& action) const;

 private:
  TensorRTLibrary() = default;
  static Result<TensorRTLibrary*> load();

  TensorRTLog log_;
  std::string version_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
};

}  // namespace edgekiln

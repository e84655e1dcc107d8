#include "runtime/tensorrt/library.h"

#include <dlfcn.h>

#include "util/str_cat.h"

namespace edgekiln {

static_assert(NV_TENSORRT_MAJOR == 10, "the adapter is for the headers of TensorRT 10");

namespace {

using Number = decltype(&::getInferLibMajorVersion);

std::string library_name() { return str_cat("libnvinfer.so.", NV_TENSORRT_MAJOR); }

template <typename Function>
Function find(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

std::string version_of(void* library) {
  std::string version;
  for (const char* name :
       {"getInferLibMajorVersion", "getInferLibMinorVersion", "getInferLibPatchVersion", "getInferLibBuildVersion"}) {
    const auto number = find<Number>(library, name);
    if (!number) return {};
    if (!version.empty()) version += '.';
    version += str_cat(number());
  }
  return version;
}

}  // namespace

void TensorRTLog::log(Severity severity, const char* message) noexcept {
  if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
  const std::lock_guard lock(mutex_);
  try {
    const std::string text(message);
    if (error_.empty()) error_ = text.substr(0, text.find_first_of("\r\n"));
  } catch (...) {
    // Without memory for the message, the failure itself is still reported.
  }
}

void TensorRTLog::clear() {
  const std::lock_guard lock(mutex_);
  error_.clear();
}

std::string TensorRTLog::first_error() const {
  const std::lock_guard lock(mutex_);
  return error_.empty() ? "it does not say why" : error_;
}

Result<TensorRTLibrary*> TensorRTLibrary::get() {
  static const Result<TensorRTLibrary*> library = load();
  return library;
}

// Neither closed nor destroyed, since engines may be closed as late as in static destructors.
Result<TensorRTLibrary*> TensorRTLibrary::load() {
  void* const handle = dlopen(library_name().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    return fail(Code::kUnsupported, "running this engine needs TensorRT ", NV_TENSORRT_MAJOR, ", and ", library_name(),
                " is not found: install it where the system looks for libraries");
  const auto create = find<decltype(&::createInferRuntime_INTERNAL)>(handle, "createInferRuntime_INTERNAL");
  auto library = std::unique_ptr<TensorRTLibrary>(new TensorRTLibrary());
  library->version_ = version_of(handle);
  if (create && !library->version_.empty())
    library->runtime_.reset(static_cast<nvinfer1::IRuntime*>(create(&library->log_, NV_TENSORRT_VERSION)));
  if (!library->runtime_)
    return fail(Code::kUnsupported, library_name(), " cannot be used (", library->log_.first_error(),
                "): install TensorRT ", NV_TENSORRT_MAJOR, '.', NV_TENSORRT_MINOR,
                " or later of its kind, and the driver it needs");
  return library.release();
}

Result<std::unique_ptr<nvinfer1::ICudaEngine>> TensorRTLibrary::deserialize(const std::string& plan) {
  log_.clear();
  std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
  if (!engine) return fail(Code::kEngine, log_.first_error());
  return engine;
}

Result<std::unique_ptr<nvinfer1::IExecutionContext>> TensorRTLibrary::make_context(nvinfer1::ICudaEngine& engine) {
  log_.clear();
  std::unique_ptr<nvinfer1::IExecutionContext> context(
      engine.createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kON_PROFILE_CHANGE));
  if (!context) return refused("made no execution context");
  return context;
}

Failure TensorRTLibrary::refused(const std::string& action) const {
  return fail(Code::kRuntime, "TensorRT ", version_, " ", action, ": ", log_.first_error());
}

}  // namespace edgekiln

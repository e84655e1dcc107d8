#include "runtime/tensorrt/runtime.h"

#include <algorithm>
#include <string>
#include <utility>

#include "engine/file.h"
#include "runtime/tensorrt/kv_cache.h"
#include "runtime/tensorrt/profiles.h"
#include "runtime/tensorrt/session.h"

namespace edgekiln {

namespace {

class TensorRTRuntime final : public ChunkedRuntime {
 public:
  TensorRTRuntime(const Manifest& manifest, std::int64_t chunk, std::unique_ptr<TensorRTSession> session)
      : ChunkedRuntime(manifest, static_cast<std::size_t>(chunk)), session_(std::move(session)) {}

  std::string kernels() const override { return "tensorrt"; }

  int threads() const override { return 1; }

  std::unique_ptr<KVCache> new_cache() const override {
    return std::make_unique<GrowingKVCache>(properties(), *session_);
  }

 private:
  const std::unique_ptr<TensorRTSession> session_;
};

}  // namespace

Result<std::unique_ptr<Runtime>> open_tensorrt(const std::filesystem::path& directory, const Manifest& manifest,
                                               const RuntimeOptions& options) {
  const Result<TensorRTBuild> build = check_layout(manifest);
  if (!build) return std::unexpected(build.error());
  // The device is opened first, since TensorRT's message for a missing driver is less clear.
  Result<std::unique_ptr<CudaDevice>> device = CudaDevice::open();
  if (!device) return std::unexpected(device.error());
  const Result<TensorRTLibrary*> library = TensorRTLibrary::get();
  if (!library) return std::unexpected(library.error());
  const Result<std::string> plan = read_file(directory / manifest.graphs.at("plan"), "check its permissions");
  if (!plan) return std::unexpected(plan.error());
  Result<std::unique_ptr<nvinfer1::ICudaEngine>> engine = library.value()->deserialize(plan.value());
  if (!engine)
    return fail(Code::kEngine, why_refused(build.value(), library.value()->version(),
                                           device.value()->compute_capability(), engine.error().message));
  if (Result<void> checked = check_plan(*engine.value(), manifest); !checked) return std::unexpected(checked.error());
  Result<std::unique_ptr<TensorRTSession>> session =
      TensorRTSession::open(std::move(device).value(), *library.value(), std::move(engine).value(), manifest);
  if (!session) return std::unexpected(session.error());
  const std::int64_t most = session.value()->largest_chunk();
  const std::int64_t chunk = options.chunk ? std::min(options.chunk, most) : most;
  return std::unique_ptr<Runtime>(std::make_unique<TensorRTRuntime>(manifest, chunk, std::move(session).value()));
}

}  // namespace edgekiln

#include "runtime/ort/cuda.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "runtime/ort/cuda_kv_cache.h"
#include "runtime/ort/graph_io.h"
#include "runtime/ort/kernels.h"
#include "runtime/ort/library.h"
#include "util/str_cat.h"

namespace edgekiln {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDefaultChunk = 2048;
constexpr char kProvider[] = "CUDAExecutionProvider";

class OrtCudaRuntime final : public ChunkedRuntime {
 public:
  // Throws Ort::Exception.
  OrtCudaRuntime(const Manifest& manifest, const RuntimeOptions& options, int threads, Ort::Session generate,
                 Ort::Session grow)
      : ChunkedRuntime(manifest, options.chunk ? static_cast<std::size_t>(options.chunk) : kDefaultChunk),
        threads_(threads),
        graphs_(manifest.io, options.device, std::move(generate), std::move(grow)) {}

  std::string kernels() const override { return kOnnxRuntime; }

  int threads() const override { return threads_; }

  std::unique_ptr<KVCache> new_cache() const override {
    return std::make_unique<OrtCudaKVCache>(properties(), graphs_);
  }

 private:
  const int threads_;
  // Ort::Session::Run is thread-safe but not const.
  mutable OrtCudaGraphs graphs_;
};

Failure no_cuda(const std::string& reason) {
  return fail(Code::kRuntime, ort_name(), " cannot use CUDA on this machine (", reason,
              "): it needs an NVIDIA driver and the libraries of CUDA and cuDNN it was built for");
}

// `cuda_graph`: capture runs as CUDA graphs and replay them. Throws Ort::Exception.
Ort::SessionOptions session_options(const std::string& device, int threads, bool cuda_graph) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  options.SetInterOpNumThreads(1);
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
  if (device == kCuda) {
    Ort::CUDAProviderOptions cuda;
    cuda.Update({{"device_id", "0"}, {"enable_cuda_graph", cuda_graph ? "1" : "0"}});
    options.AppendExecutionProvider_CUDA_V2(*cuda);
  }
  return options;
}

Result<std::unique_ptr<Runtime>> load(const fs::path& generate, const fs::path& grow, const Manifest& manifest,
                                      const RuntimeOptions& options) {
  const int threads = options.threads ? options.threads : 1;
  const bool cuda = options.device == kCuda;
  try {
    // Every ONNX Runtime accepts this small graph, so a failure to load it is a failure of the device.
    Result<Ort::Session> growing = load_graph(grow, session_options(options.device, threads, false));
    if (!growing) return cuda ? no_cuda(growing.error().message) : Failure(growing.error());
    Result<Ort::Session> generating = load_graph(generate, session_options(options.device, threads, true));
    if (!generating) return std::unexpected(generating.error());
    if (Result<void> fits = check_graph(*generating, generate, manifest); !fits) return std::unexpected(fits.error());
    return std::unique_ptr<Runtime>(std::make_unique<OrtCudaRuntime>(
        manifest, options, threads, std::move(generating).value(), std::move(growing).value()));
  } catch (const Ort::Exception& error) {
    return no_cuda(first_line(error.what()));
  }
}

}  // namespace

Result<std::unique_ptr<Runtime>> open_ort_cuda(const fs::path& directory, const Manifest& manifest,
                                               const RuntimeOptions& options) {
  const KVCacheSpec& kv_cache = manifest.kv_cache;
  const bool windows =
      std::any_of(kv_cache.windows.begin(), kv_cache.windows.end(), [](std::int64_t window) { return window != 0; });
  const std::string layout = str_cat(kv_cache.layout, " ", kv_cache.dtype, windows ? " with windows" : "");
  if (layout != "shared-buffer float16" || !manifest.io.total_length)
    return fail(Code::kEngine, "the engine's KV cache layout is ", layout,
                ", ort-cuda runs shared-buffer float16: build the engine again");
  const Result<fs::path> generate = graph_path(directory, manifest, "generate");
  if (!generate) return std::unexpected(generate.error());
  const Result<fs::path> grow = graph_path(directory, manifest, "grow");
  if (!grow) return std::unexpected(grow.error());
  if (Result<void> ready = ort_ready(); !ready) return std::unexpected(ready.error());
  const std::vector<std::string> providers = Ort::GetAvailableProviders();
  if (options.device == kCuda && std::find(providers.begin(), providers.end(), kProvider) == providers.end())
    return fail(Code::kUnsupported, ort_name(),
                " as installed has no CUDA: put the libraries of its GPU release in its place");
  return load(generate.value(), grow.value(), manifest, options);
}

}  // namespace edgekiln

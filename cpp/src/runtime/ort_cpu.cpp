#include "runtime/ort_cpu.h"

#include <algorithm>
#include <map>
#include <new>
#include <optional>
#include <utility>

#include "runtime/native.h"
#include "runtime/ort_cache.h"
#include "runtime/ort_library.h"
#include "runtime/threads.h"
#include "sentence.h"

namespace edgekiln {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDefaultChunk = 256;
constexpr char kStock[] = "stock";

std::optional<ONNXTensorElementDataType> cache_type(const KeyValueLayout& kv) {
  static const std::map<std::string, ONNXTensorElementDataType> types{
      {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
      {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
      {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8}};
  const auto found = types.find(kv.dtype);
  if (kv.kind != "shared-buffer" || found == types.end()) return std::nullopt;
  return found->second;
}

Ort::SessionOptions session_options(int threads) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  options.SetInterOpNumThreads(1);
  options.SetExecutionMode(ORT_SEQUENTIAL);
  options.SetGraphOptimizationLevel(ORT_ENABLE_ALL);
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
  // Work is handed out in small blocks, so that a core that other programs slow down does not hold up the rest.
  options.AddConfigEntry("session.dynamic_block_base", "4");
  return options;
}

class OrtCpu final : public Runtime {
 public:
  OrtCpu(const Manifest& manifest, ONNXTensorElementDataType type, const RuntimeOptions& options)
      : Runtime(manifest),
        names_(manifest.io),
        type_(type),
        threads_(options.threads ? options.threads : default_threads()),
        chunk_(options.chunk ? static_cast<std::size_t>(options.chunk) : kDefaultChunk) {
    // float16 caches are not among those that edgekiln's kernels read.
    if (options.native && type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) native_ = native_kernels(options.kernels);
  }

  // Throws Ort::Exception.
  void load(const fs::path& graph) {
    if (native_) {
      try {
        Ort::SessionOptions options = session_options(threads_);
        options.RegisterCustomOpsLibrary(native_->library.c_str());
        session_ = Ort::Session(ort_environment(), graph.c_str(), options);
        return;
      } catch (const Ort::Exception&) {
        // They refuse what they do not implement; ONNX Runtime's own say what is wrong with anything else.
        native_.reset();
      }
    }
    session_ = Ort::Session(ort_environment(), graph.c_str(), session_options(threads_));
  }

  std::string kernels() const override { return native_ ? native_->instruction_set : kStock; }

  int threads() const override { return threads_; }

  std::unique_ptr<Cache> new_cache() const override {
    return std::make_unique<OrtCache>(properties(), session_, names_, type_);
  }

  Result<Logits> append(Cache& cache, Ids tokens, const std::stop_token& cancel) const override {
    auto& own = static_cast<OrtCache&>(cache);
    if (Result<void> checked = check_ids(tokens, properties(), own.length()); !checked) return checked.error();
    try {
      const auto size = static_cast<std::int64_t>(tokens.size());
      if (Result<void> reserved = own.reserve(own.length() + size); !reserved) return reserved.error();
      for (std::size_t start = 0; start < tokens.size(); start += chunk_) {
        if (cancel.stop_requested()) return cancelled();
        const Ids chunk = tokens.subspan(start, std::min(chunk_, tokens.size() - start));
        own.run(chunk, cancel);
        own.append(chunk);
      }
    } catch (const Ort::Exception& error) {
      if (cancel.stop_requested()) return cancelled();
      return Error{Code::kRuntime,
                   sentence("ONNX Runtime failed while running the engine: ", first_line(error.what()))};
    } catch (const std::bad_alloc&) {
      return Error{Code::kMemory, sentence("no memory to run ", tokens.size(), " tokens: close other sessions")};
    }
    return own.logits();
  }

 private:
  static Error cancelled() { return {Code::kCancelled, "the answer was cancelled"}; }

  const GraphIO names_;
  const ONNXTensorElementDataType type_;
  const int threads_;
  const std::size_t chunk_;
  std::optional<NativeKernels> native_;
  // Running a session does not change it, but its C++ interface does not say so.
  mutable Ort::Session session_{nullptr};
};

}  // namespace

Result<std::unique_ptr<Runtime>> open_ort_cpu(const fs::path& directory, const Manifest& manifest,
                                              const RuntimeOptions& options) {
  const auto type = cache_type(manifest.kv);
  if (!type)
    return Error{Code::kEngine,
                 sentence("the engine's key-value layout is ", manifest.kv.kind, " ", manifest.kv.dtype,
                          ", ort-cpu runs shared-buffer float32 or float16 or int8: build the engine again")};
  const auto graph = manifest.graphs.find("generate");
  if (graph == manifest.graphs.end())
    return Error{Code::kEngine, sentence(directory.string(), " has no generate graph: build the engine again")};
  if (Result<void> ready = ort_ready(); !ready) return ready.error();
  if (options.native && !options.kernels.empty() && !native_kernels(options.kernels))
    return Error{Code::kRequest, sentence(options.kernels.string(),
                                          " is no library of edgekiln's kernels: build it "
                                          "with `make native`, or leave it out")};
  auto runtime = std::make_unique<OrtCpu>(manifest, *type, options);
  const fs::path path = directory / graph->second;
  try {
    runtime->load(path);
  } catch (const Ort::Exception& error) {
    return Error{Code::kEngine, sentence("ONNX Runtime ", OrtGetApiBase()->GetVersionString(), " cannot load ",
                                         path.string(), ": ", first_line(error.what()))};
  }
  return std::unique_ptr<Runtime>(std::move(runtime));
}

}  // namespace edgekiln

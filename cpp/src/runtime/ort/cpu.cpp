#include "runtime/ort/cpu.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "runtime/ort/kernels.h"
#include "runtime/ort/kv_cache.h"
#include "runtime/ort/library.h"
#include "util/str_cat.h"
#include "util/threads.h"

namespace edgekiln {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDefaultChunk = 256;
// What edgekiln's kernels may round in prompts: read when they are registered with a session.
constexpr const char* kRoundedAttention[] = {"edgekiln.attention", "bfloat16"};
// Tokens that edgekiln's kernels compute together as they do one by one: kFewTokens of cpp/ops/attention_decode.cpp.
constexpr std::size_t kVerified = 8;

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

class OrtCpu final : public ChunkedRuntime {
 public:
  OrtCpu(const Manifest& manifest, ONNXTensorElementDataType type, const RuntimeOptions& options)
      : ChunkedRuntime(manifest, options.chunk ? static_cast<std::size_t>(options.chunk) : kDefaultChunk),
        names_(manifest.io),
        rounds_(manifest.scheme != "none"),
        type_(type),
        threads_(options.threads ? options.threads : default_threads()) {
    // float16 caches are not among those that edgekiln's kernels read.
    if (options.native && type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) native_ = native_kernels(options.kernels);
  }

  Result<void> load(const fs::path& graph) {
    if (native_) {
      try {
        Ort::SessionOptions options = session_options(threads_);
        if (rounds_) options.AddConfigEntry(kRoundedAttention[0], kRoundedAttention[1]);
        options.RegisterCustomOpsLibrary(native_->library.c_str());
        // What is planned for a number of tokens is allocated beside what the run before holds; few nodes need no plan.
        options.DisableMemPattern();
        session_ = Ort::Session(ort_environment(), graph.c_str(), options);
        return {};
      } catch (const Ort::Exception&) {
        // They refuse what they do not implement; ONNX Runtime's own say what is wrong with anything else.
        native_.reset();
      }
    }
    Result<Ort::Session> loaded = load_graph(graph, session_options(threads_));
    if (!loaded) return loaded.error();
    session_ = std::move(loaded).value();
    return {};
  }

  std::string kernels() const override { return native_ ? native_->instruction_set : kStock; }

  int threads() const override { return threads_; }

  std::unique_ptr<Cache> new_cache() const override {
    return std::make_unique<OrtCache>(properties(), session_, names_, type_);
  }

  // ONNX Runtime's own kernels round otherwise when they compute several tokens.
  std::size_t max_verify_tokens() const override {
    return native_ && names_.logits_start ? std::min(kVerified, chunk()) : 1;
  }

  Result<Logits> verify(Cache& cache, Ids tokens, const std::stop_token& cancel) const override {
    auto& own = static_cast<OrtCache&>(cache);
    own.give_logits_of(tokens.size());
    Result<Logits> logits = append(cache, tokens, cancel);
    own.give_logits_of(1);
    return logits;
  }

 private:
  const GraphIO names_;
  const bool rounds_;
  const ONNXTensorElementDataType type_;
  const int threads_;
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
  const Result<fs::path> graph = graph_path(directory, manifest, "generate");
  if (!graph) return graph.error();
  if (Result<void> ready = ort_ready(); !ready) return ready.error();
  if (options.native && !options.kernels.empty() && !native_kernels(options.kernels))
    return Error{Code::kRequest, sentence(options.kernels.string(),
                                          " is no library of edgekiln's kernels: build it "
                                          "with `make native`, or leave it out")};
  auto runtime = std::make_unique<OrtCpu>(manifest, *type, options);
  if (Result<void> loaded = runtime->load(graph.value()); !loaded) return loaded.error();
  return std::unique_ptr<Runtime>(std::move(runtime));
}

}  // namespace edgekiln

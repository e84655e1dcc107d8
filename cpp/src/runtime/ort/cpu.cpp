#include "runtime/ort/cpu.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "runtime/ort/graph_io.h"
#include "runtime/ort/kernels.h"
#include "runtime/ort/kv_cache.h"
#include "runtime/ort/library.h"
#include "runtime/ort/pack_cache.h"
#include "util/str_cat.h"
#include "util/threads.h"

namespace edgekiln {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDefaultChunk = 256;
// Session option of edgekiln's kernels: prefill attention may round its operands to bfloat16.
constexpr const char* kAttentionPrecision[] = {"edgekiln.attention", "bfloat16"};
// ONNX Runtime would give MatMulNBits the bias that is added to its result, an input that the kernel of edgekiln lacks.
constexpr const char* kWithoutBiasFusion[] = {"optimization.disable_specified_optimizers", "MatMulNBitsFusion"};

// Up to this many tokens, edgekiln's kernels give each token the bits that it gets alone.
constexpr std::size_t kMaxVerifyTokens = 8;

std::optional<ONNXTensorElementDataType> cache_type(const KVCacheSpec& kv_cache) {
  static const std::map<std::string, ONNXTensorElementDataType> types{
      {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
      {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
      {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8}};
  const auto found = types.find(kv_cache.dtype);
  if (kv_cache.layout != "shared-buffer" || found == types.end()) return std::nullopt;
  return found->second;
}

Ort::SessionOptions session_options(int threads, bool own_kernels) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  options.SetInterOpNumThreads(1);
  options.SetExecutionMode(ORT_SEQUENTIAL);
  options.SetGraphOptimizationLevel(ORT_ENABLE_ALL);
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
  // Smaller blocks of work, so that a core that other programs slow down delays the others less.
  options.AddConfigEntry("session.dynamic_block_base", "4");
  // Idle threads of the pool spin for some 50 ms by default, on cores that other programs need. edgekiln's kernels keep
  // their threads busy from the first layer to the last; the time between two tokens is what has to be bridged. ONNX
  // Runtime's own kernels enter the pool for every node.
  options.AddConfigEntry("session.intra_op.spin_duration_us", own_kernels ? "100" : "1000");
  options.AddConfigEntry("session.intra_op.spin_backoff_max", "1");
  return options;
}

class OrtCpuRuntime final : public ChunkedRuntime {
 public:
  OrtCpuRuntime(const Manifest& manifest, ONNXTensorElementDataType type, const RuntimeOptions& options,
                std::optional<KernelLibrary> library, std::optional<PackCache> pack_cache)
      : ChunkedRuntime(manifest, options.chunk ? static_cast<std::size_t>(options.chunk) : kDefaultChunk),
        names_(manifest.io),
        bf16_attention_(manifest.scheme != "none"),
        type_(type),
        threads_(options.threads ? options.threads : default_threads()),
        library_(std::move(library)),
        pack_cache_(std::move(pack_cache)) {}

  Result<void> load(const fs::path& graph, const Manifest& manifest) {
    if (Result<void> opened = open(graph); !opened) return opened;
    return check_graph(session_, graph, manifest);
  }

  std::string kernels() const override { return library_ ? library_->instruction_set : kOnnxRuntime; }

  int threads() const override { return threads_; }

  void keep_packed_weights() const override {
    if (library_ && pack_cache_) pack_cache_->keep();
  }

  std::unique_ptr<KVCache> new_cache() const override {
    return std::make_unique<OrtKVCache>(properties(), session_, names_, type_, chunk());
  }

  // ONNX Runtime's kernels round differently for one token and for several, and tokens that are not accepted cannot be
  // dropped from states.
  std::size_t max_verify_tokens() const override {
    if (!properties().states.empty() || !names_.logits_to_keep) return 1;
    return library_ && library_->complete ? std::min(kMaxVerifyTokens, chunk()) : 1;
  }

  Result<Logits> verify(KVCache& cache, Ids tokens, const std::stop_token& cancel) const override {
    auto& own = static_cast<OrtKVCache&>(cache);
    own.set_logits_to_keep(tokens.size());
    Result<Logits> logits = append(cache, tokens, cancel);
    own.set_logits_to_keep(1);
    return logits;
  }

 private:
  Result<void> open(const fs::path& graph) {
    if (library_) {
      try {
        Ort::SessionOptions options = session_options(threads_, true);
        if (bf16_attention_) options.AddConfigEntry(kAttentionPrecision[0], kAttentionPrecision[1]);
        if (pack_cache_)
          for (const auto& [name, value] : pack_cache_->entries) options.AddConfigEntry(name.c_str(), value.c_str());
        options.RegisterCustomOpsLibrary(library_->path.c_str());
        options.AddConfigEntry(kWithoutBiasFusion[0], kWithoutBiasFusion[1]);
        // A memory pattern is allocated next to the arena's other blocks for every new input shape, and the few nodes
        // of a fused graph gain nothing from it.
        options.DisableMemPattern();
        session_ = Ort::Session(ort_environment(), graph.c_str(), options);
        return {};
      } catch (const Ort::Exception&) {
        // edgekiln's kernels refuse a graph that they do not implement. Any other defect fails again below, with ONNX
        // Runtime's own message.
        library_.reset();
      }
    }
    Result<Ort::Session> loaded = load_graph(graph, session_options(threads_, false));
    if (!loaded) return std::unexpected(loaded.error());
    session_ = std::move(loaded).value();
    return {};
  }

  const GraphIO names_;
  const bool bf16_attention_;
  const ONNXTensorElementDataType type_;
  const int threads_;
  std::optional<KernelLibrary> library_;
  std::optional<PackCache> pack_cache_;
  // Ort::Session::Run is thread-safe but not const.
  mutable Ort::Session session_{nullptr};
};

}  // namespace

Result<std::unique_ptr<Runtime>> open_ort_cpu(const fs::path& directory, const Manifest& manifest,
                                              const RuntimeOptions& options) {
  const auto type = cache_type(manifest.kv_cache);
  if (!type)
    return fail(Code::kEngine, "the engine's KV cache layout is ", manifest.kv_cache.layout, " ",
                manifest.kv_cache.dtype,
                ", ort-cpu runs shared-buffer float32 or float16 or int8: build the engine again");
  const Result<fs::path> graph = graph_path(directory, manifest, "generate");
  if (!graph) return std::unexpected(graph.error());
  if (Result<void> ready = ort_ready(); !ready) return std::unexpected(ready.error());
  std::optional<KernelLibrary> library;
  if (options.kernels == KernelsChoice::kEdgekiln) {
    auto found = kernel_library(options.kernels_library);
    if (!found) return std::unexpected(found.error());
    // edgekiln's kernels implement no float16 cache.
    if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) library = std::move(found).value();
  }
  std::optional<PackCache> cache;
  if (library) cache = pack_cache(directory, manifest, *library, options.pack_cache);
  auto runtime = std::make_unique<OrtCpuRuntime>(manifest, *type, options, std::move(library), std::move(cache));
  if (Result<void> loaded = runtime->load(graph.value(), manifest); !loaded) return std::unexpected(loaded.error());
  return std::unique_ptr<Runtime>(std::move(runtime));
}

}  // namespace edgekiln

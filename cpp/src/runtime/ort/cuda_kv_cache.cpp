#include "runtime/ort/cuda_kv_cache.h"

#include <memory>
#include <numeric>
#include <utility>

#include "runtime/ort/binding.h"
#include "util/str_cat.h"

namespace edgekiln {

namespace {

// Run option of the CUDA execution provider: the id of the CUDA graph to capture or replay.
constexpr char kGraphId[] = "gpu_graph_id";
constexpr char kNoGraph[] = "-1";

Ort::MemoryInfo host() { return Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault); }

template <typename T>
Ort::Value host_tensor(T* data, const std::vector<std::int64_t>& shape) {
  const auto count = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  return Ort::Value::CreateTensor<T>(host(), data, static_cast<std::size_t>(count), shape.data(), shape.size());
}

}  // namespace

OrtCudaKVCache::OrtCudaKVCache(const Properties& properties, OrtCudaGraphs& graphs)
    : ChunkedKVCache(properties,
                     properties.states.empty() ? nullptr : std::make_unique<OrtCudaStates>(properties.states, graphs)),
      graphs_(graphs) {}

Result<void> OrtCudaKVCache::grow(std::int64_t capacity) {
  const std::lock_guard lock(graphs_.run_mutex);
  prefill_ = {};
  decode_ = {};
  layers_.resize(properties().kv_heads.size());
  try {
    if (states()) states()->allocate();
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
      // Buffer by buffer, so that old and new memory coexist for one buffer only.
      enlarge(layers_[layer].keys, layer, capacity);
      enlarge(layers_[layer].values, layer, capacity);
    }
  } catch (const Ort::Exception& error) {
    return fail(Code::kMemory, "no memory for the keys and values of ", capacity, " tokens (", first_line(error.what()),
                "): shorten the prompt or close other sessions");
  }
  return {};
}

// Copy `buffer` to the start of a larger one that is zero after it. Throws Ort::Exception.
void OrtCudaKVCache::enlarge(Ort::Value& buffer, std::size_t layer, std::int64_t capacity) {
  const std::int64_t heads = properties().kv_heads[layer];
  const std::int64_t size = properties().head_dims[layer];
  Ort::Float16_t nothing;
  const Ort::Value empty = host_tensor(&nothing, {1, heads, 0, size});
  const Ort::Value& past = buffer ? buffer : empty;
  const std::int64_t held = past.GetTensorTypeAndShapeInfo().GetShape()[2];
  // If an earlier grow() failed half way, some buffers are already large enough.
  if (held >= capacity) return;
  Ort::Value larger = graphs_.device.float16_tensor({1, heads, capacity, size});
  graphs_.copy(past, larger);
  buffer = std::move(larger);
}

Result<void> OrtCudaKVCache::run(Ids tokens, const std::stop_token& cancel) {
  const Result<std::size_t> front = begin_run();
  if (!front) return std::unexpected(front.error());
  const std::lock_guard lock(graphs_.run_mutex);
  return ort_running([&] {
    if (!logits_) {
      input_id_ = graphs_.device.shared_tensor<std::int64_t>({1, 1}, 1);
      position_id_ = graphs_.device.shared_tensor<std::int64_t>({1, 1}, 1);
      const std::int64_t size = properties().vocab_size;
      logits_ = graphs_.device.shared_tensor<float>({1, 1, size}, static_cast<std::size_t>(size));
    }
    if (tokens.size() == 1)
      decode(*front, tokens.front());
    else
      prefill(*front, tokens, cancel);
  });
}

Ort::IoBinding OrtCudaKVCache::bind_buffers(std::size_t front) {
  Ort::IoBinding binding(graphs_.generate);
  for (std::size_t layer = 0; layer < layers_.size(); ++layer)
    bind_layer(binding, graphs_.names, layer, layers_[layer].keys, layers_[layer].values);
  if (states()) states()->bind(binding, graphs_.names, front);
  binding.BindInput(graphs_.names.total_length->c_str(), host_tensor(&total_length_, {1}));
  binding.BindOutput(graphs_.names.logits.c_str(), logits_->value());
  return binding;
}

void OrtCudaKVCache::prefill(std::size_t front, Ids tokens, const std::stop_token& cancel) {
  if (!prefill_[front]) prefill_[front] = bind_buffers(front);
  Ort::IoBinding& binding = *prefill_[front];
  const auto size = static_cast<std::int64_t>(tokens.size());
  std::vector<std::int64_t> input_ids(tokens.begin(), tokens.end());
  std::vector<std::int64_t> position_ids(tokens.size());
  std::iota(position_ids.begin(), position_ids.end(), length());
  // BindInput copies host tensors to the device.
  binding.BindInput(graphs_.names.input_ids.c_str(), host_tensor(input_ids.data(), {1, size}));
  binding.BindInput(graphs_.names.position_ids.c_str(), host_tensor(position_ids.data(), {1, size}));
  total_length_ = static_cast<std::int32_t>(length() + size);
  Ort::RunOptions options;
  options.AddConfigEntry(kGraphId, kNoGraph);
  const std::stop_callback terminate(cancel, [&] { options.SetTerminate(); });
  graphs_.generate.Run(options, binding);
}

// A captured graph keeps the addresses and host values of its capture, so total_length is the capacity, which is the
// same in every step. The run is never terminated early: a partial capture would be replayed as if it were complete.
void OrtCudaKVCache::decode(std::size_t front, std::int64_t token) {
  std::optional<Step>& step = decode_[front];
  if (!step) {
    step = Step{bind_buffers(front), graphs_.next_graph_id()};
    step->binding.BindInput(graphs_.names.input_ids.c_str(), input_id_->value());
    step->binding.BindInput(graphs_.names.position_ids.c_str(), position_id_->value());
  }
  *input_id_->data() = token;
  *position_id_->data() = length();
  total_length_ = static_cast<std::int32_t>(capacity());
  Ort::RunOptions options;
  options.AddConfigEntry(kGraphId, step->graph_id.c_str());
  graphs_.generate.Run(options, step->binding);
}

}  // namespace edgekiln

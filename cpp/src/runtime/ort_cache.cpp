#include "runtime/ort_cache.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "runtime/ort_binding.h"
#include "sentence.h"

namespace edgekiln {

namespace {

std::size_t size_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
      return 1;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return 2;
    default:
      return sizeof(float);
  }
}

template <typename T>
Ort::Value tensor_of(const Ort::MemoryInfo& memory, std::vector<T>& data, std::initializer_list<std::int64_t> shape) {
  return Ort::Value::CreateTensor<T>(memory, data.data(), data.size(), shape.begin(), shape.size());
}

}  // namespace

OrtCache::OrtCache(const Properties& properties, Ort::Session& session, const GraphIO& names,
                   ONNXTensorElementDataType type)
    : ChunkedCache(properties),
      session_(session),
      names_(names),
      type_(type),
      element_size_(size_of(type)),
      memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)),
      binding_(session) {}

// Zeros come from calloc: a page costs memory only once a token is written to it.
OrtCache::Buffer OrtCache::enlarged(const Buffer* old, std::size_t layer, std::int64_t capacity) const {
  const auto heads = static_cast<std::size_t>(properties().kv_heads[layer]);
  const std::size_t row = static_cast<std::size_t>(properties().head_dims[layer]) * element_size_;
  const auto rows = static_cast<std::size_t>(capacity);
  Buffer buffer(static_cast<std::byte*>(std::calloc(heads * rows, row)), &std::free);
  if (!buffer || !old) return buffer;
  const auto held = static_cast<std::size_t>(length());
  const auto old_rows = static_cast<std::size_t>(this->capacity());
  for (std::size_t head = 0; head < heads; ++head)
    std::memcpy(buffer.get() + head * rows * row, old->get() + head * old_rows * row, held * row);
  return buffer;
}

Result<void> OrtCache::grow(std::int64_t capacity) {
  std::vector<Buffer> keys;
  std::vector<Buffer> values;
  const bool holds = length() > 0;
  for (std::size_t layer = 0; layer < properties().kv_heads.size(); ++layer) {
    keys.push_back(enlarged(holds ? &keys_[layer] : nullptr, layer, capacity));
    values.push_back(enlarged(holds ? &values_[layer] : nullptr, layer, capacity));
    if (!keys.back() || !values.back())
      return Error{Code::kMemory, sentence("no memory for the keys and values of ", capacity,
                                           " tokens: shorten the prompt or close other sessions")};
  }
  keys_.swap(keys);
  values_.swap(values);
  return ort_running([&] { bind_layers(capacity); });
}

void OrtCache::bind_layers(std::int64_t capacity) {
  const auto tensor = [&](const Buffer& buffer, std::size_t layer) {
    const std::array<std::int64_t, 4> shape{1, properties().kv_heads[layer], capacity, properties().head_dims[layer]};
    const auto size = static_cast<std::size_t>(shape[1] * shape[2] * shape[3]) * element_size_;
    return Ort::Value::CreateTensor(memory_, buffer.get(), size, shape.data(), shape.size(), type_);
  };
  for (std::size_t layer = 0; layer < keys_.size(); ++layer)
    bind_layer(binding_, names_, layer, tensor(keys_[layer], layer), tensor(values_[layer], layer));
}

void OrtCache::bind_inputs(std::int64_t size) {
  if (size == bound_) return;
  bound_ = 0;
  input_ids_.resize(static_cast<std::size_t>(size));
  position_ids_.resize(static_cast<std::size_t>(size));
  binding_.BindInput(names_.input_ids.c_str(), tensor_of(memory_, input_ids_, {1, size}));
  binding_.BindInput(names_.position_ids.c_str(), tensor_of(memory_, position_ids_, {1, size}));
  bound_ = size;
}

// A session that never verifies has memory for the logits of one position.
void OrtCache::bind_logits() {
  if (positions_ == bound_positions_) return;
  bound_positions_ = 0;
  const std::size_t size = static_cast<std::size_t>(positions_) * vocab_size();
  if (logits_.size() < size) logits_.resize(size);
  const std::array<std::int64_t, 3> shape{1, positions_, properties().vocab_size};
  binding_.BindOutput(names_.logits.c_str(),
                      Ort::Value::CreateTensor<float>(memory_, logits_.data(), size, shape.data(), shape.size()));
  logits_start_ = -positions_;
  if (names_.logits_start) {
    const std::int64_t one = 1;
    binding_.BindInput(names_.logits_start->c_str(),
                       Ort::Value::CreateTensor<std::int64_t>(memory_, &logits_start_, 1, &one, 1));
  }
  bound_positions_ = positions_;
}

Result<void> OrtCache::run(Ids tokens, const std::stop_token& cancel) {
  return ort_running([&] {
    bind_inputs(static_cast<std::int64_t>(tokens.size()));
    bind_logits();
    std::copy(tokens.begin(), tokens.end(), input_ids_.begin());
    std::iota(position_ids_.begin(), position_ids_.end(), length());
    Ort::RunOptions options;
    const std::stop_callback terminate(cancel, [&] { options.SetTerminate(); });
    session_.Run(options, binding_);
  });
}

}  // namespace edgekiln

#include "runtime/ort/kv_cache.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <numeric>

#include "kernels/common/pages.h"
#include "runtime/ort/binding.h"
#include "util/str_cat.h"

namespace edgekiln {

namespace {

// Smaller caches fit in the TLB with ordinary pages.
constexpr std::size_t kHugePagesFrom = std::size_t{16} << 20;

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

OrtKVCache::OrtKVCache(const Properties& properties, Ort::Session& session, const GraphIO& names,
                       ONNXTensorElementDataType type, std::size_t chunk)
    : ChunkedKVCache(properties, properties.states.empty() ? nullptr : std::make_unique<OrtStates>(properties.states)),
      session_(session),
      names_(names),
      type_(type),
      element_size_(size_of(type)),
      memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
  for (std::size_t front = 0; front < (states() ? 2 : 1); ++front) bindings_.emplace_back(session);
  for (const std::int64_t window : properties.windows)
    if (window) windows_.try_emplace(window, WindowBuffer::of(window, static_cast<std::int64_t>(chunk)), 0);
}

const OrtKVCache::Window* OrtKVCache::window_of(std::size_t layer) const {
  const std::vector<std::int64_t>& windows = properties().windows;
  if (layer >= windows.size() || !windows[layer]) return nullptr;
  return &windows_.at(windows[layer]);
}

std::int64_t OrtKVCache::slots(std::size_t layer, std::int64_t capacity) const {
  const Window* const window = window_of(layer);
  return window ? std::min(window->buffer.capacity, capacity) : capacity;
}

std::size_t OrtKVCache::token_bytes(std::size_t layer) const {
  return static_cast<std::size_t>(properties().head_dims[layer]) * element_size_;
}

std::size_t OrtKVCache::layer_bytes(std::size_t layer, std::int64_t capacity) const {
  return static_cast<std::size_t>(properties().kv_heads[layer] * slots(layer, capacity)) * token_bytes(layer);
}

void OrtKVCache::copy_held(const std::byte* old, std::byte* to, std::size_t layer, std::int64_t capacity) const {
  const auto heads = static_cast<std::size_t>(properties().kv_heads[layer]);
  const std::size_t head_bytes = static_cast<std::size_t>(slots(layer, capacity)) * token_bytes(layer);
  const std::size_t old_head_bytes = static_cast<std::size_t>(slots(layer, this->capacity())) * token_bytes(layer);
  const Window* const window = window_of(layer);
  const auto held = static_cast<std::size_t>(length() - (window ? window->start : 0));
  for (std::size_t head = 0; head < heads; ++head)
    std::memcpy(to + head * head_bytes, old + head * old_head_bytes, held * token_bytes(layer));
}

bool OrtKVCache::holds(std::int64_t length) const {
  return std::all_of(windows_.begin(), windows_.end(),
                     [&](const auto& entry) { return entry.second.buffer.holds(entry.second.start, length); });
}

void OrtKVCache::emptied() {
  for (auto& [_, window] : windows_) window.start = 0;
}

void OrtKVCache::make_room(std::int64_t added) {
  for (auto& [size, window] : windows_) {
    const std::int64_t start = window.buffer.start_for(window.start, length(), added);
    if (start == window.start) continue;
    for (std::size_t layer = 0; layer < keys_.size(); ++layer) {
      if (properties().windows[layer] != size) continue;
      const std::size_t head_bytes = static_cast<std::size_t>(slots(layer, capacity())) * token_bytes(layer);
      const std::size_t skipped = static_cast<std::size_t>(start - window.start) * token_bytes(layer);
      const std::size_t kept = static_cast<std::size_t>(length() - start) * token_bytes(layer);
      for (std::byte* const part : {keys_[layer], values_[layer]})
        for (std::int64_t head = 0; head < properties().kv_heads[layer]; ++head) {
          std::byte* const to = part + static_cast<std::size_t>(head) * head_bytes;
          std::memmove(to, to + skipped, kept);
        }
    }
    window.start = start;
  }
}

// The buffers of all layers are consecutive in one allocation. int8 caches use huge pages, since a decode step reads
// the whole cache and huge pages save TLB misses. Float caches do not: a huge page is cleared as a whole on first
// touch, which costs a prompt more than it saves in a short answer. Old pages are dropped layer by layer during the
// copy, so that peak memory stays near the size of the new buffer.
Result<void> OrtKVCache::grow(std::int64_t capacity) {
  const std::size_t layers = properties().kv_heads.size();
  std::size_t size = 0;
  for (std::size_t layer = 0; layer < layers; ++layer) size += 2 * layer_bytes(layer, capacity);
  ZeroedMemory memory(size, element_size_ == 1 && size >= kHugePagesFrom);
  if (!memory || (states() && !states()->allocate()))
    return fail(Code::kMemory, "no memory for the keys and values of ", capacity,
                " tokens: shorten the prompt or close other sessions");
  std::byte* at = memory.get();
  keys_.resize(layers);
  values_.resize(layers);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const std::size_t bytes = layer_bytes(layer, capacity);
    for (std::byte** const held : {&keys_[layer], &values_[layer]}) {
      if (length()) copy_held(*held, at, layer, capacity);
      if (buffer_) drop_pages(*held, layer_bytes(layer, this->capacity()));
      *held = at;
      at += bytes;
    }
  }
  buffer_ = std::move(memory);
  return ort_running([&] { bind_layers(capacity); });
}

void OrtKVCache::bind_layers(std::int64_t capacity) {
  const auto tensor = [&](std::byte* data, std::size_t layer) {
    const std::array<std::int64_t, 4> shape{1, properties().kv_heads[layer], slots(layer, capacity),
                                            properties().head_dims[layer]};
    return Ort::Value::CreateTensor(memory_, data, layer_bytes(layer, capacity), shape.data(), shape.size(), type_);
  };
  for (Ort::IoBinding& binding : bindings_)
    for (std::size_t layer = 0; layer < keys_.size(); ++layer)
      bind_layer(binding, names_, layer, tensor(keys_[layer], layer), tensor(values_[layer], layer));
  if (states())
    for (std::size_t front = 0; front < bindings_.size(); ++front) states()->bind(bindings_[front], names_, front);
  bind_windows();
  const std::int64_t one = 1;
  if (names_.sequence_length)
    bind_input(*names_.sequence_length,
               Ort::Value::CreateTensor<std::int64_t>(memory_, &sequence_length(), 1, &one, 1));
}

void OrtKVCache::bind_input(const std::string& name, const Ort::Value& value) {
  for (Ort::IoBinding& binding : bindings_) binding.BindInput(name.c_str(), value);
}

void OrtKVCache::bind_windows() {
  const std::int64_t one = 1;
  for (auto& [size, window] : windows_)
    bind_input(of_window(*names_.window_start, size),
               Ort::Value::CreateTensor<std::int64_t>(memory_, &window.start, 1, &one, 1));
}

void OrtKVCache::bind_inputs(std::int64_t size) {
  if (size == bound_tokens_) return;
  bound_tokens_ = 0;
  input_ids_.resize(static_cast<std::size_t>(size));
  position_ids_.resize(static_cast<std::size_t>(size));
  bind_input(names_.input_ids, tensor_of(memory_, input_ids_, {1, size}));
  bind_input(names_.position_ids, tensor_of(memory_, position_ids_, {1, size}));
  bound_tokens_ = size;
}

// logits_ grows only when a run keeps more positions, so a session without speculation has the logits of one position.
void OrtKVCache::bind_logits() {
  if (logits_to_keep_ == bound_logits_) return;
  bound_logits_ = 0;
  const std::size_t size = static_cast<std::size_t>(logits_to_keep_) * vocab_size();
  if (logits_.size() < size) logits_.resize(size);
  const std::array<std::int64_t, 3> shape{1, logits_to_keep_, properties().vocab_size};
  for (Ort::IoBinding& binding : bindings_)
    binding.BindOutput(names_.logits.c_str(),
                       Ort::Value::CreateTensor<float>(memory_, logits_.data(), size, shape.data(), shape.size()));
  if (names_.logits_to_keep) {
    const std::int64_t one = 1;
    bind_input(*names_.logits_to_keep, Ort::Value::CreateTensor<std::int64_t>(memory_, &logits_to_keep_, 1, &one, 1));
  }
  bound_logits_ = logits_to_keep_;
}

Result<void> OrtKVCache::run(Ids tokens, const std::stop_token& cancel) {
  const Result<std::size_t> front = begin_run();
  if (!front) return std::unexpected(front.error());
  return ort_running([&] {
    bind_inputs(static_cast<std::int64_t>(tokens.size()));
    bind_logits();
    make_room(static_cast<std::int64_t>(tokens.size()));
    std::copy(tokens.begin(), tokens.end(), input_ids_.begin());
    std::iota(position_ids_.begin(), position_ids_.end(), length());
    Ort::RunOptions options;
    const std::stop_callback terminate(cancel, [&] { options.SetTerminate(); });
    session_.Run(options, bindings_[*front]);
  });
}

}  // namespace edgekiln

#include "runtime/tensorrt/kv_cache.h"

#include <mutex>
#include <utility>

namespace edgekiln {

namespace {

constexpr char kWhat[] = "the cache of keys and values";

}  // namespace

// Bytes of one head of one token.
std::size_t TensorRTKVCache::token_size(std::size_t part) const {
  return static_cast<std::size_t>(session_.parts()[part].head_dim) * session_.element_size();
}

// The back, which holds `slots` tokens, becomes the front.
void TensorRTKVCache::turn(std::int64_t slots) {
  for (Part& part : parts_) std::swap(part.front, part.back);
  slots_ = slots;
}

// Keep only the tokens that are held still, if the front has more.
Result<void> TensorRTKVCache::settle() {
  if (length() == slots_) return {};
  const auto kept = static_cast<std::size_t>(length());
  for (std::size_t index = 0; kept && index < parts_.size(); ++index) {
    const std::size_t token = token_size(index);
    const Pieces target{parts_[index].back.get(), kept * token};
    const Pieces source{parts_[index].front.get(), static_cast<std::size_t>(slots_) * token};
    const auto heads = static_cast<std::size_t>(session_.parts()[index].heads);
    if (Result<void> done = session_.device().copy(target, source, kept * token, heads, cudaMemcpyDeviceToDevice);
        !done)
      return done;
  }
  turn(length());
  return {};
}

Result<void> TensorRTKVCache::grow(std::int64_t capacity) {
  const std::lock_guard lock(session_.one_at_a_time());
  if (Result<void> done = settle(); !done) return done;
  parts_.resize(session_.parts().size());
  const CudaDevice& device = session_.device();
  for (std::size_t index = 0; index < parts_.size(); ++index) {
    const std::size_t row = token_size(index) * static_cast<std::size_t>(session_.parts()[index].heads);
    // One part at a time, so that old and new are both there for one part only; a failure leaves each usable.
    const std::size_t size = static_cast<std::size_t>(capacity) * row;
    Result<CudaMemory> front = device.allocate(size, kWhat);
    if (!front) return std::unexpected(front.error());
    Result<CudaMemory> back = device.allocate(size, kWhat);
    if (!back) return std::unexpected(back.error());
    Part& part = parts_[index];
    if (const std::size_t held = static_cast<std::size_t>(slots_) * row; held) {
      const Pieces target{front.value().get(), held};
      if (Result<void> done = device.copy(target, {part.front.get(), held}, held, 1, cudaMemcpyDeviceToDevice); !done)
        return done;
      // The copy reads a buffer that is about to be freed.
      if (Result<void> done = device.synchronize(); !done) return done;
    }
    part = {std::move(front).value(), std::move(back).value()};
  }
  return {};
}

Result<void> TensorRTKVCache::run(Ids tokens, const std::stop_token&) {
  const std::lock_guard lock(session_.one_at_a_time());
  if (Result<void> done = settle(); !done) return done;
  std::vector<PartBuffers> buffers;
  for (const Part& part : parts_) buffers.push_back({part.front.get(), part.back.get()});
  if (Result<void> done = session_.run(tokens, slots_, buffers, logits_); !done) return done;
  turn(slots_ + static_cast<std::int64_t>(tokens.size()));
  return {};
}

}  // namespace edgekiln

#include "runtime/tensorrt/kv_cache.h"

#include <mutex>
#include <utility>

namespace edgekiln {

namespace {

constexpr char kPurpose[] = "the cache of keys and values";

}  // namespace

// Bytes of one head of one token.
std::size_t GrowingKVCache::token_size(std::size_t part) const {
  return static_cast<std::size_t>(session_.parts()[part].head_dim) * session_.element_size();
}

// Make the back, which holds `slots` tokens, the front.
void GrowingKVCache::swap(std::int64_t slots) {
  for (Part& part : parts_) std::swap(part.front, part.back);
  slots_ = slots;
}

// Copy the first length() tokens to the back and swap, if the front has more.
Result<void> GrowingKVCache::truncate() {
  if (length() == slots_) return {};
  const auto kept = static_cast<std::size_t>(length());
  for (std::size_t index = 0; kept && index < parts_.size(); ++index) {
    const std::size_t token = token_size(index);
    const Blocks target{parts_[index].back.get(), kept * token};
    const Blocks source{parts_[index].front.get(), static_cast<std::size_t>(slots_) * token};
    const auto heads = static_cast<std::size_t>(session_.parts()[index].heads);
    if (Result<void> done = session_.device().copy(target, source, kept * token, heads, cudaMemcpyDeviceToDevice);
        !done)
      return done;
  }
  swap(length());
  return {};
}

Result<void> GrowingKVCache::grow(std::int64_t capacity) {
  const std::lock_guard lock(session_.run_mutex());
  if (Result<void> done = truncate(); !done) return done;
  parts_.resize(session_.parts().size());
  const CudaDevice& device = session_.device();
  for (std::size_t index = 0; index < parts_.size(); ++index) {
    const std::size_t token_bytes = token_size(index) * static_cast<std::size_t>(session_.parts()[index].heads);
    // Part by part, so that old and new memory coexist for one part only. A failure leaves every part usable.
    const std::size_t size = static_cast<std::size_t>(capacity) * token_bytes;
    Result<CudaMemory> front = device.allocate(size, kPurpose);
    if (!front) return std::unexpected(front.error());
    Result<CudaMemory> back = device.allocate(size, kPurpose);
    if (!back) return std::unexpected(back.error());
    Part& part = parts_[index];
    if (const std::size_t held = static_cast<std::size_t>(slots_) * token_bytes; held) {
      const Blocks target{front.value().get(), held};
      if (Result<void> done = device.copy(target, {part.front.get(), held}, held, 1, cudaMemcpyDeviceToDevice); !done)
        return done;
      // The old buffer is freed below, so the copy must have finished.
      if (Result<void> done = device.synchronize(); !done) return done;
    }
    part = {std::move(front).value(), std::move(back).value()};
  }
  return {};
}

Result<void> GrowingKVCache::run(Ids tokens, const std::stop_token&) {
  const std::lock_guard lock(session_.run_mutex());
  if (Result<void> done = truncate(); !done) return done;
  std::vector<PartBuffers> buffers;
  for (const Part& part : parts_) buffers.push_back({part.front.get(), part.back.get()});
  if (Result<void> done = session_.run(tokens, slots_, buffers, logits_); !done) return done;
  swap(slots_ + static_cast<std::int64_t>(tokens.size()));
  return {};
}

}  // namespace edgekiln

// Zeroed memory whose pages are allocated on first write.
#pragma once

#include <cstddef>
#include <utility>

namespace edgekiln {

class ZeroedMemory {
 public:
  ZeroedMemory() = default;
  // `size` bytes, aligned to a huge page. With `huge`, transparent huge pages are requested. Empty if there is not
  // enough memory.
  ZeroedMemory(std::size_t size, bool huge);
  ~ZeroedMemory();
  ZeroedMemory(ZeroedMemory&& other) noexcept { swap(other); }
  ZeroedMemory& operator=(ZeroedMemory&& other) noexcept {
    swap(other);
    return *this;
  }

  std::byte* get() const { return start_; }
  explicit operator bool() const { return start_ != nullptr; }

 private:
  void swap(ZeroedMemory& other) noexcept {
    std::swap(allocated_, other.allocated_);
    std::swap(size_, other.size_);
    std::swap(start_, other.start_);
  }

  void* allocated_ = nullptr;
  std::size_t size_ = 0;
  std::byte* start_ = nullptr;
};

}  // namespace edgekiln

// Memory of zeros that the system gives page by page, as it is written to.
#pragma once

#include <cstddef>
#include <utility>

namespace edgekiln {

class ZeroedMemory {
 public:
  ZeroedMemory() = default;
  // Starts where a huge page does; with `huge`, the system is asked to give huge pages. Holds nothing where there is
  // not so much memory.
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

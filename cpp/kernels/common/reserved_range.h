// Reserved addresses, in which files and memory are mapped later.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekiln {

// Begins at a multiple of a huge page. Linux only.
class ReservedRange {
 public:
  // Reserves no memory and no swap; data() is null where the system has no such range of addresses.
  explicit ReservedRange(std::size_t size);
  ~ReservedRange();
  ReservedRange(const ReservedRange&) = delete;
  ReservedRange& operator=(const ReservedRange&) = delete;

  std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }

  // Makes [offset, offset + size) writable memory of zeros. Both are multiples of a page.
  bool commit(std::size_t offset, std::size_t size);

  // Maps [offset, offset + size) of a file there, read-only; both are multiples of a page. Where these addresses are
  // being read, the file has the same content as the memory that it replaces.
  bool map_file(int file, std::size_t offset, std::size_t size);

 private:
  // Without Linux, there is nothing to unmap.
  [[maybe_unused]] void* mapped_ = nullptr;
  [[maybe_unused]] std::size_t mapped_size_ = 0;
  std::size_t size_ = 0;
  std::uint8_t* data_ = nullptr;
};

}  // namespace edgekiln

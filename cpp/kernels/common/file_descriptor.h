// An open file, closed when the object goes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>

#include <cerrno>
#endif

namespace edgekiln {

class FileDescriptor {
 public:
  explicit FileDescriptor(int number = -1) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~FileDescriptor() { reset(); }

  explicit operator bool() const { return number_ >= 0; }
  int number() const { return number_; }

#if defined(__unix__) || defined(__APPLE__)
  void reset() {
    if (number_ >= 0) close(number_);
    number_ = -1;
  }

  // Reads, or writes, all of the bytes; false if the file ends before or the system refuses.
  bool read_all(void* to, std::size_t size, std::size_t offset) const {
    return transfer(pread, static_cast<std::uint8_t*>(to), size, offset);
  }
  bool write_all(const void* from, std::size_t size, std::size_t offset) const {
    return transfer(pwrite, static_cast<const std::uint8_t*>(from), size, offset);
  }

 private:
  template <typename Call, typename Byte>
  bool transfer(Call call, Byte* memory, std::size_t size, std::size_t offset) const {
    for (std::size_t done = 0; done < size;) {
      const ssize_t more = call(number_, memory + done, size - done, static_cast<off_t>(offset + done));
      if (more < 0 && errno == EINTR) continue;
      if (more <= 0) return false;
      done += static_cast<std::size_t>(more);
    }
    return true;
  }
#else
  void reset() { number_ = -1; }
  bool read_all(void*, std::size_t, std::size_t) const { return false; }
  bool write_all(const void*, std::size_t, std::size_t) const { return false; }

 private:
#endif
  int number_;
};

}  // namespace edgekiln

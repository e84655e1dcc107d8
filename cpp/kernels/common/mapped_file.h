// Memory-mapped weight files: dropping pages that have been read, and reading the file without mapping it in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace edgekiln {

// Drops the pages that lie wholly in [data, data + size) from memory, if all of them are unmodified pages of a mapped
// file: a later read loads them from the file again. Otherwise, and on systems other than Linux, does nothing.
void drop_mapped_pages(const void* data, std::size_t size);

// Starts to read the pages that lie wholly in [data, data + size), of a mapped file, if a sample of them is not all in
// memory. Reads through the mapping alone wait for each few pages. Does nothing on systems other than Linux.
void read_ahead(const void* data, std::size_t size);

// Where a file is mapped in this process's memory, at the time of construction.
class FileMappings {
 public:
  // `path` is absolute and without symbolic links.
  explicit FileMappings(const std::string& path);

  // The offset in the file of [data, data + size); nullopt where that is not mapped from it.
  std::optional<std::size_t> offset_of(const void* data, std::size_t size) const;

 private:
  struct Range {
    std::uintptr_t start, end;
    std::size_t offset;
  };
  std::vector<Range> ranges_;
};

// Reads from [data, data + size) through the file that is mapped there, so that the pages stay out of this process's
// memory: a read through the mapping faults in up to 2 MB around it. Where no file is mapped, or it cannot be opened by
// name any more, reads the memory. Nothing may write to the range.
class MappedFileReader {
 public:
  MappedFileReader(const void* data, std::size_t size);
  ~MappedFileReader();
  MappedFileReader(const MappedFileReader&) = delete;
  MappedFileReader& operator=(const MappedFileReader&) = delete;

  // Copies [at, at + size) to `to`.
  void read(const void* at, std::size_t size, void* to) const;

  // Whether read() reads the file rather than the memory.
  bool has_file() const { return file_ >= 0; }

 private:
  // Without Linux, data_ and offset_ have no use.
  [[maybe_unused]] const char* data_;
  int file_ = -1;
  [[maybe_unused]] std::size_t offset_ = 0;  // of `data` in the file
};

}  // namespace edgekiln

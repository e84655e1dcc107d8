// Memory that is a file's: given back once it has been read, or read past the mapping.
#pragma once

#include <cstddef>

namespace edgekiln {

// Gives the pages that lie wholly in [data, data + size) back to the system, if all of them are pages of a file that
// nobody has written to: a later read finds the same there, from the file. Else, and where the system does not tell,
// nothing happens.
void release_file_pages(const void* data, std::size_t size);

// [data, data + size), read from the file that it maps, so that nothing of it comes into this process's memory: to read
// a few bytes of a mapping, the system maps up to 2 MB around them. Where it maps no file, or the system does not tell,
// it is read where it is. Nobody writes to it.
class FileBytes {
 public:
  FileBytes(const void* data, std::size_t size);
  ~FileBytes();
  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;

  // Copies `size` bytes from `at` on.
  void read(const void* at, std::size_t size, void* to) const;

  bool of_file() const { return file_ >= 0; }

 private:
  const char* data_;
  int file_ = -1;
  std::size_t offset_ = 0;  // of the data in the file
};

}  // namespace edgekiln

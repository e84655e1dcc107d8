// Memory that is a file's, given back once it has been read.
#pragma once

#include <cstddef>

namespace edgekiln {

// The pages that lie wholly in [data, data + size), if those in memory are pages of a file that nobody has written to,
// some are, and none will be written to. Else, and where the system does not tell, none.
class FilePages {
 public:
  FilePages(const void* data, std::size_t size);

  // Gives them back to the system: a later read finds the same there, from the file. Reads may go on meanwhile.
  void release() const;

 private:
  char* first_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace edgekiln

// Memory that is a file's, given back once it has been read for the last time.
#pragma once

#include <cstddef>

namespace edgekiln {

// Gives the pages that lie wholly in [data, data + size) back to the system, if all of them are pages of a file that
// nobody has written to: a later read finds the same there, from the file. Else, and where the system does not tell,
// nothing happens.
void release_file_pages(const void* data, std::size_t size);

}  // namespace edgekiln

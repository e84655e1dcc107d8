// Which pages of a file's mapping the system maps as huge pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace edgekiln {

enum class MappedPage {
  kAbsent,  // not in memory; where the file system has large folios, a read makes it huge
  kSmall,
  kHuge
};

// The state of each huge page's worth of [data, data + size), which begins at one. Reads from those that are in memory,
// and from the first. Where the system does not tell (Linux before 6.7, other systems), all are small.
std::vector<MappedPage> mapped_pages(const std::uint8_t* data, std::size_t size);

}  // namespace edgekiln

#include "kernels/common/huge_pages.h"

#include "kernels/common/file_descriptor.h"
#include "kernels/common/pages.h"

#if defined(__linux__)
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#endif

namespace edgekiln {

#if defined(__linux__)

namespace {

// <linux/fs.h> from Linux 6.7 on; see the kernel's Documentation/admin-guide/mm/pagemap.rst.
struct PageRegion {
  std::uint64_t start, end, categories;
};
struct ScanArguments {
  std::uint64_t size, flags, start, end, walk_end, regions, region_count, max_pages;
  std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
constexpr std::uint64_t kIsHuge = 1 << 6;
constexpr std::size_t kRegions = 256;

}  // namespace

std::vector<MappedPage> mapped_pages(const std::uint8_t* data, std::size_t size) {
  const std::size_t count = rounded_up(size, kHugePage) / kHugePage;
  std::vector<MappedPage> pages(count, MappedPage::kSmall);
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> resident(rounded_up(size, page) / page);
  const FileDescriptor pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!pagemap || mincore(const_cast<std::uint8_t*>(data), size, resident.data())) return pages;
  for (std::size_t i = 0; i < count; ++i) {
    const volatile std::uint8_t* const first = data + i * kHugePage;
    if (i == 0 || (resident[i * kHugePage / page] & 1)) {
      static_cast<void>(*first);  // maps it
    } else {
      pages[i] = MappedPage::kAbsent;
    }
  }
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  std::vector<PageRegion> regions(kRegions);
  ScanArguments scan{};
  scan.size = sizeof scan;
  scan.end = begin + rounded_up(size, page);
  scan.regions = reinterpret_cast<std::uintptr_t>(regions.data());
  scan.region_count = kRegions;
  scan.category_mask = scan.return_mask = kIsHuge;
  for (scan.start = begin; scan.start < scan.end; scan.start = scan.walk_end) {
    const int found = ioctl(pagemap.number(), _IOWR('f', 16, ScanArguments), &scan);
    if (found < 0 || scan.walk_end <= scan.start) return std::vector<MappedPage>(count, MappedPage::kSmall);
    for (int i = 0; i < found; ++i)
      for (std::uint64_t at = regions[i].start; at < regions[i].end; at += kHugePage)
        pages[(at - begin) / kHugePage] = MappedPage::kHuge;
  }
  return pages;
}

#else

std::vector<MappedPage> mapped_pages(const std::uint8_t*, std::size_t size) {
  return std::vector<MappedPage>(rounded_up(size, kHugePage) / kHugePage, MappedPage::kSmall);
}

#endif

}  // namespace edgekiln

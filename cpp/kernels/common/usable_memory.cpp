#include "kernels/common/usable_memory.h"

#if defined(__linux__)
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#endif

namespace edgekiln {

#if defined(__linux__)

namespace {

// A control group and those around it, `group` relative to the directory `root`.
std::uint64_t least_limit(const std::string& root, std::string group, const char* file, std::uint64_t memory) {
  for (;; group.erase(group.rfind('/'))) {
    std::ifstream limits(root + group + '/' + file);
    if (std::uint64_t limit = 0; limits >> limit) memory = std::min(memory, limit);
    if (group.find('/') == group.npos) return memory;
  }
}

}  // namespace

std::uint64_t usable_memory() {
  auto memory = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  // Lines of "number:controllers:group"; without controllers in version 2.
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::string group = line.substr(std::min(line.find('/'), line.size()));
    if (line.starts_with("0::")) memory = least_limit("/sys/fs/cgroup", group, "memory.max", memory);
    if (line.find(":memory:") != line.npos)
      memory = least_limit("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes", memory);
  }
  return memory;
}

#else

std::uint64_t usable_memory() { return 0; }

#endif

}  // namespace edgekiln

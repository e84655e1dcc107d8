#include "kernels/common/usable_memory.h"

#if defined(__linux__)
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#endif

namespace edgekiln {

#if defined(__linux__)

std::uint64_t usable_memory() {
  auto memory = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  // In a container, its own group is the root; elsewhere groups around this one may limit it, too.
  std::ifstream groups("/proc/self/cgroup");
  for (std::string group; std::getline(groups, group);) {
    if (!group.starts_with("0::")) continue;  // of version 2
    for (group.erase(0, 3); !group.empty(); group.erase(std::min(group.rfind('/'), group.size()))) {
      std::ifstream file("/sys/fs/cgroup" + group + "/memory.max");
      if (std::uint64_t limit = 0; file >> limit) memory = std::min(memory, limit);
    }
  }
  if (std::uint64_t limit = 0; std::ifstream("/sys/fs/cgroup/memory.max") >> limit) memory = std::min(memory, limit);
  return memory;
}

#else

std::uint64_t usable_memory() { return 0; }

#endif

}  // namespace edgekiln

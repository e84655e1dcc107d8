#include "util/threads.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace edgekiln {

namespace {

int allowed_processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

// Number of distinct lists of sibling processors in sysfs; 0 if unknown.
int physical_cores() {
  std::set<std::string> cores;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/cpu", error)) {
    for (const char* name : {"topology/core_cpus_list", "topology/thread_siblings_list"}) {
      std::ifstream file(entry.path() / name);
      std::string processors;
      if (!std::getline(file, processors)) continue;
      cores.insert(processors);
      break;
    }
  }
  return static_cast<int>(cores.size());
}

}  // namespace

int default_threads() {
  const int allowed = allowed_processors();
  const int physical = physical_cores();
  return std::max(1, physical > 0 ? std::min(allowed, physical) : allowed);
}

}  // namespace edgekiln

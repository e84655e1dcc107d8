#include "util/processor_cores.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <initializer_list>
#include <map>
#include <sstream>
#include <string>
#include <string_view>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace edgekiln {

namespace {

namespace fs = std::filesystem;

// A performance core has at least these shares of the largest capacity and of the highest clock. Cores of one kind
// differ by less: the best ones of a chip are clocked some 5% higher. Clocks of two kinds differ less than capacities.
constexpr double kCapacityShare = 0.5, kClockShare = 0.75;

// The whole of `text` as a number that is not negative.
std::optional<std::int64_t> number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// The first line of the first of `paths` that has one; "" if none has.
std::string first_line(std::initializer_list<fs::path> paths) {
  for (const fs::path& path : paths) {
    std::ifstream file(path);
    std::string line;
    if (std::getline(file, line) && !line.empty()) return line;
  }
  return "";
}

// Number of each logical processor -> its directory in sysfs.
std::map<int, fs::path> directories(const fs::path& root) {
  std::map<int, fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root / "sys/devices/system/cpu", error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("cpu")) continue;
    if (const auto processor = number(std::string_view(name).substr(3)))
      found[static_cast<int>(*processor)] = entry.path();
  }
  return found;
}

// The numbers of a list as "0-3,8"; none if it is damaged.
std::set<int> processor_list(const std::string& text) {
  std::set<int> processors;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) {
    const std::size_t dash = part.find('-');
    const auto first = number(std::string_view(part).substr(0, dash));
    const auto last = dash == std::string::npos ? first : number(std::string_view(part).substr(dash + 1));
    if (!first || !last) return {};
    for (std::int64_t processor = *first; processor <= *last; ++processor)
      processors.insert(static_cast<int>(processor));
  }
  return processors;
}

// Logical processors of performance cores; empty if all cores are of one kind.
std::optional<std::set<int>> performance_processors(const fs::path& root) {
  if (const std::string listed = first_line({root / "sys/devices/cpu_core/cpus"}); !listed.empty())
    return processor_list(listed);
  const std::map<int, fs::path> all = directories(root);
  for (const auto& [file, share] :
       {std::pair{"cpu_capacity", kCapacityShare}, std::pair{"cpufreq/cpuinfo_max_freq", kClockShare}}) {
    std::map<int, std::int64_t> speeds;
    std::int64_t most = 0;
    for (const auto& [processor, directory] : all) {
      const auto speed = number(first_line({directory / file}));
      if (!speed) continue;
      speeds[processor] = *speed;
      most = std::max(most, *speed);
    }
    if (speeds.empty()) continue;
    std::set<int> fast;
    for (const auto& [processor, speed] : speeds)
      if (static_cast<double>(speed) >= share * static_cast<double>(most)) fast.insert(processor);
    return fast;
  }
  return std::nullopt;
}

#if defined(__APPLE__)
int sysctl_number(const char* name) {
  std::int32_t value = 0;
  std::size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value : 0;
}
#endif

}  // namespace

PhysicalCores physical_cores(const std::optional<std::set<int>>& processors, const fs::path& root) {
#if defined(__APPLE__)
  if (const int performance = sysctl_number("hw.perflevel0.physicalcpu"))
    return {performance, sysctl_number("hw.perflevel1.physicalcpu")};
  return {sysctl_number("hw.physicalcpu"), 0};
#endif
  std::map<std::string, int> cores;  // list of the core's processors -> its first processor
  for (const auto& [processor, directory] : directories(root)) {
    if (processors && !processors->contains(processor)) continue;
    const std::string siblings =
        first_line({directory / "topology/core_cpus_list", directory / "topology/thread_siblings_list"});
    if (!siblings.empty()) cores.emplace(siblings, processor);
  }
  const std::optional<std::set<int>> fast = performance_processors(root);
  PhysicalCores counts;
  for (const auto& core : cores) ++(!fast || fast->contains(core.second) ? counts.performance : counts.efficiency);
  return counts;
}

}  // namespace edgekiln

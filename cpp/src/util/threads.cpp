#include "util/threads.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "util/processor_cores.h"
#include "util/str_cat.h"

namespace edgekiln {

namespace {

namespace fs = std::filesystem;

std::string first_line_of(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// `quota` microseconds in each `period`; empty without a limit, which version 1 writes as -1, version 2 as max.
std::optional<double> processors(std::string_view quota, std::string_view period) {
  const auto number = [](std::string_view text) {
    long long value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() ? value : 0;
  };
  if (number(quota) <= 0 || number(period) <= 0) return std::nullopt;
  return static_cast<double>(number(quota)) / static_cast<double>(number(period));
}

std::optional<double> quota_v2(const fs::path& group) {
  const std::vector<std::string> fields = split(first_line_of(group / "cpu.max"), ' ');
  if (fields.empty()) return std::nullopt;
  return processors(fields[0], fields.size() > 1 ? fields[1] : "100000");
}

std::optional<double> quota_v1(const fs::path& group) {
  return processors(first_line_of(group / "cpu.cfs_quota_us"), first_line_of(group / "cpu.cfs_period_us"));
}

// Controller -> path of this process's group; version 2 has one group, for the controller "".
std::map<std::string, std::string> own_groups(const fs::path& root) {
  std::map<std::string, std::string> groups;
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) groups[""] = path;
    for (const std::string& controller : split(controllers, ',')) groups[controller] = path;
  }
  return groups;
}

// A part of a hierarchy of cgroups: the group `root` of the hierarchy is mounted at `point`.
struct Mount {
  std::string controller, root, point;
};

// A field of mountinfo, which writes spaces and the like as octal escapes.
std::string unescaped(const std::string& field) {
  std::string text;
  const auto octal = [](char c) { return c >= '0' && c <= '7'; };
  for (std::size_t i = 0; i < field.size(); ++i) {
    if (field[i] == '\\' && i + 3 < field.size() && std::all_of(&field[i + 1], &field[i + 4], octal)) {
      text += static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 + (field[i + 3] - '0'));
      i += 3;
    } else {
      text += field[i];
    }
  }
  return text;
}

// The mounts of version 2, and of version 1 with the CPU controller.
std::vector<Mount> mounts(const fs::path& root) {
  std::vector<Mount> found;
  std::ifstream file(root / "proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t separator = line.find(" - ");
    if (separator == std::string::npos) continue;
    const std::vector<std::string> mount = split(line.substr(0, separator), ' ');
    const std::vector<std::string> file_system = split(line.substr(separator + 3), ' ');
    if (mount.size() < 5 || file_system.size() < 3) continue;
    const std::vector<std::string> options = split(file_system[2], ',');
    const bool v2 = file_system[0] == "cgroup2";
    const bool v1 = file_system[0] == "cgroup" && std::find(options.begin(), options.end(), "cpu") != options.end();
    if (v1 || v2) found.push_back({v2 ? "" : "cpu", unescaped(mount[3]), unescaped(mount[4])});
  }
  return found;
}

// The path of a group relative to the mount point. A container mounts the part with its own group, whose path may be
// relative to another root: then only the group at the mount point is known.
fs::path relative_group(const std::string& path, const std::string& mount_root) {
  const auto leaves = [](const fs::path& group) { return std::find(group.begin(), group.end(), "..") != group.end(); };
  const fs::path group = fs::path(path).lexically_relative(mount_root);
  return group.empty() || leaves(group) || leaves(path) ? fs::path(".") : group;
}

}  // namespace

std::set<int> usable_processors() {
  std::set<int> processors;
#if defined(__linux__)
  // The kernel refuses a set that is smaller than its own, which may be of more than CPU_SETSIZE processors.
  for (std::size_t bytes = sizeof(cpu_set_t); bytes <= 64 * sizeof(cpu_set_t); bytes *= 2) {
    std::vector<cpu_set_t> set(bytes / sizeof(cpu_set_t));
    if (sched_getaffinity(0, bytes, set.data()) != 0) continue;
    for (std::size_t i = 0; i < 8 * bytes; ++i)
      if (CPU_ISSET_S(i, bytes, set.data())) processors.insert(static_cast<int>(i));
    return processors;
  }
#endif
  for (unsigned i = 0; i < std::max(1U, std::thread::hardware_concurrency()); ++i)
    processors.insert(static_cast<int>(i));
  return processors;
}

int available_processors() { return static_cast<int>(usable_processors().size()); }

int default_threads(const fs::path& root, const std::set<int>& processors) {
  const PhysicalCores cores = physical_cores(processors, root);
  int threads = cores.performance ? cores.performance : cores.efficiency;
  if (threads == 0) threads = static_cast<int>(processors.size());
  if (const std::optional<double> quota = cpu_quota(root))
    threads = static_cast<int>(std::min<double>(threads, std::ceil(*quota)));
  return threads;
}

Result<void> check_threads(int threads) {
  const int most = available_processors();
  if (threads < 0) return fail(Code::kRequest, "threads must be at least 1, got ", threads);
  if (threads <= most) return {};
  return fail(Code::kRequest, "threads must be at most ", most, ", the processors that this process may use, got ",
              threads);
}

std::optional<double> cpu_quota(const fs::path& root) {
  std::optional<double> least;
  std::map<std::string, std::string> groups = own_groups(root);
  for (const Mount& mount : mounts(root)) {
    const fs::path point = root / fs::path(mount.point).relative_path();
    const auto own = groups.find(mount.controller);
    fs::path group = relative_group(own == groups.end() ? "/" : own->second, mount.root);
    for (;; group = group.parent_path()) {
      const fs::path directory = point / group;
      const std::optional<double> quota = mount.controller.empty() ? quota_v2(directory) : quota_v1(directory);
      if (quota) least = std::min(least.value_or(*quota), *quota);
      if (group.empty() || group == ".") break;
    }
  }
  return least;
}

}  // namespace edgekiln

// Physical cores of this machine, performance and efficiency cores apart.
#pragma once

#include <filesystem>
#include <optional>
#include <set>

namespace edgekiln {

// Numbers of physical cores. `performance` counts the fast cores, or all cores of a machine that has one kind;
// `efficiency` the slow cores of a machine that has two kinds or more.
struct PhysicalCores {
  int performance = 0, efficiency = 0;
};

// Physical cores of this machine, 0 where unknown; those that none of `processors` belongs to are not counted. Empty
// `processors` stands for all logical processors; only Linux tells which core each belongs to.
//
// Performance cores are those of Linux's `cpu_core` on hybrid Intel processors, else those of at least half the largest
// `cpu_capacity` (Arm), else those of at least 0.75 of the highest clock. macOS names them itself. `root` is the
// directory that holds `sys`; another one for tests.
// Source: sysfs-devices-system-cpu and sysfs-bus-event_source-devices of the Linux kernel's documentation; sysctl(3).
PhysicalCores physical_cores(const std::optional<std::set<int>>& processors = {},
                             const std::filesystem::path& root = "/");

}  // namespace edgekiln

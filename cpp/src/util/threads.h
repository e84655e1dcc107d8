// How many compute threads a runtime may have, and how many it has by default.
#pragma once

#include <filesystem>
#include <optional>

#include "util/result.h"

namespace edgekiln {

// Logical processors that this process may run on, by its affinity and its cpuset.
int available_processors();

// Threads that compute fastest: the least of the physical cores, `available_processors` and the CPU quota.
//
// A second thread on a core slows matrix multiplications down. With more threads than the quota has processors, all of
// them use it up early in each period and then stand still. A quota of 1.5 processors counts as 2. `root` is the
// directory that holds `proc` and `sys`; another one for tests.
int default_threads(const std::filesystem::path& root = "/");

// An error of Code::kRequest if `threads` is above `available_processors`: more threads take turns on them, and each
// waits in its turn for the others.
Result<void> check_threads(int threads);

// Processors that the cgroups of this process may use together, as a container's limit; empty without a limit.
//
// The limits of a cgroup and of all groups around it apply, in version 1 and in version 2.
// Source: sched-bwc and cgroup-v2 of the Linux kernel's documentation; cgroups(7), proc_pid_mountinfo(5).
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

}  // namespace edgekiln

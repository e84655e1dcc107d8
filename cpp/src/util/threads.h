// How many compute threads a runtime may have, and how many it has by default.
#pragma once

#include <filesystem>
#include <optional>
#include <set>

#include "util/result.h"

namespace edgekiln {

// Numbers of the logical processors that this process may run on, by its affinity and its cpuset.
std::set<int> usable_processors();

// Number of the logical processors that this process may run on.
int available_processors();

// Threads that compute fastest: the performance cores among `processors`, at most as many as the CPU quota.
//
// A second thread on a core slows matrix multiplications down, and so does a thread on an efficiency core, which the
// others wait for; efficiency cores count only where the process may use no other. With more threads than the quota has
// processors, all of them use it up early in each period and then stand still. A quota of 1.5 processors counts as 2.
// Threads are not bound to cores: the operating system moves busy threads to performance cores, and knows which of them
// other programs use. `root` is the directory that holds `proc` and `sys`; another one for tests.
int default_threads(const std::filesystem::path& root = "/", const std::set<int>& processors = usable_processors());

// An error of Code::kRequest if `threads` is above `available_processors`: more threads take turns on them, and each
// waits in its turn for the others.
Result<void> check_threads(int threads);

// Processors that the cgroups of this process may use together, as a container's limit; empty without a limit.
//
// The limits of a cgroup and of all groups around it apply, in version 1 and in version 2.
// Source: sched-bwc and cgroup-v2 of the Linux kernel's documentation; cgroups(7), proc_pid_mountinfo(5).
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

}  // namespace edgekiln

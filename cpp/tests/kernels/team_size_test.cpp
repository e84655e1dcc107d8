// The size of thread teams: smaller after regions that waited for a member, larger again later.
#include "kernels/common/team_size.h"

#include <doctest/doctest.h>

namespace {

using Clock = edgekiln::TeamSize::Clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::size_t kThreads = 4;  // of the pool

// Runs regions of 4 ms one after the other. With more than `free` members one stands still for `waited` in each, and
// the others wait for it.
struct Machine {
  edgekiln::TeamSize size{};
  Clock::time_point now{std::chrono::hours(1)};

  // Returns the members of the region.
  std::size_t run_region(std::size_t free, Clock::duration waited) {
    const std::size_t members = std::min(kThreads, size.limit(now));
    const Clock::time_point begin = now;
    now += milliseconds(4);
    size.record(members, begin, now, members > free ? Clock::rep(members - 1) * waited : Clock::duration{});
    return members;
  }

  // Members of all of `count` regions.
  std::size_t run_regions(std::size_t count, std::size_t free, Clock::duration waited = milliseconds(3)) {
    std::size_t members = 0;
    while (count--) members += run_region(free, waited);
    return members;
  }
};

}  // namespace

TEST_CASE("a team that never waits has all threads") {
  Machine machine;
  CHECK(machine.run_regions(100, kThreads) == 100 * kThreads);
}

TEST_CASE("waits that cost less than a thread do not count") {
  Machine machine;
  CHECK(machine.run_regions(1000, 0, microseconds(900)) == 1000 * kThreads);
}

TEST_CASE("long waits do not count where they are rare") {
  Machine machine;
  for (int i = 0; i < 100; ++i) {
    CHECK(machine.run_regions(9, kThreads) == 9 * kThreads);
    CHECK(machine.run_region(0, milliseconds(3)) == kThreads);
  }
}

TEST_CASE("a member that keeps the others waiting is left out, but for a few attempts") {
  Machine machine;
  const std::size_t members = machine.run_regions(1000, kThreads - 1);
  CHECK(members >= 1000 * (kThreads - 1));
  CHECK(members <= 1000 * (kThreads - 1) + 20);
}

TEST_CASE("a team shrinks to the processors that are left, at least to one thread") {
  for (const std::size_t free : {std::size_t{2}, std::size_t{1}, std::size_t{0}}) {
    Machine machine;
    machine.run_regions(50, free);
    CHECK(machine.run_regions(200, free) <= 200 * std::max<std::size_t>(free, 1) + 10);
  }
}

TEST_CASE("all threads return when nothing keeps them waiting any more") {
  Machine machine;
  machine.run_regions(1000, 1);
  machine.run_regions(1000, kThreads);
  CHECK(machine.run_regions(100, kThreads) == 100 * kThreads);
}

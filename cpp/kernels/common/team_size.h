// How many threads a team takes: fewer while other programs keep its members waiting.
//
// A thread that shares its core with another program stands still for milliseconds, in the middle of an iteration, and
// all others wait for it: two threads on one and a half cores are slower than one thread on one. The operating system
// does not tell, so teams are measured. Where regions would have taken less time with a thread less, and not only by
// chance, the next ones run with a thread less, until one tries again after a pause, which is longer each time.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>

namespace edgekiln {

class TeamSize {
 public:
  using Clock = std::chrono::steady_clock;

  // Threads that a region may have that begins at `now`.
  std::size_t limit(Clock::time_point now) const {
    const std::size_t limit = limit_.load(std::memory_order_relaxed);
    return limit == kUnlimited || now.time_since_epoch().count() < retry_.load(std::memory_order_relaxed) ? limit
                                                                                                          : limit + 1;
  }

  // After a region of `members` threads from `begin` to `end`, which slept for `slept` in all while they waited for
  // each other. Calls by several threads at once lose updates, no more.
  void record(std::size_t members, Clock::time_point begin, Clock::time_point end, Clock::duration slept) {
    const std::size_t allowed = limit(begin), limited = limit_.load(std::memory_order_relaxed);
    const bool attempt = allowed != limited;
    Clock::duration pause{pause_.load(std::memory_order_relaxed)}, lost{lost_.load(std::memory_order_relaxed)};
    if (members > 1) {
      // All but one sleep while that one stands still. The rest of the time is that of the work with all members, and
      // takes members / (members - 1) times as long with one less. What this would have saved is summed up as in Page's
      // CUSUM test ("Continuous inspection schemes", 1954).
      const Clock::rep others = static_cast<Clock::rep>(members) - 1;
      const Clock::duration time = end - begin, work = time - slept / others;
      const Clock::duration saved = time - work - work / others;
      lost = std::max(Clock::duration::zero(), (attempt ? kMostLost / 2 : lost) + saved);
    }
    if (lost > kMostLost) {
      lost = Clock::duration::zero();
      pause = std::min<Clock::duration>(4 * pause, kLongestPause);
      limit_.store(members - 1, std::memory_order_relaxed);
      retry_.store((end + pause).time_since_epoch().count(), std::memory_order_relaxed);
    } else if (attempt || allowed == kUnlimited) {
      pause = std::max<Clock::duration>(pause - pause / 8, kShortestPause);
      limit_.store(members < allowed ? kUnlimited : allowed, std::memory_order_relaxed);
      retry_.store((end + pause).time_since_epoch().count(), std::memory_order_relaxed);
    }
    lost_.store(lost.count(), std::memory_order_relaxed);
    pause_.store(pause.count(), std::memory_order_relaxed);
  }

 private:
  static constexpr std::size_t kUnlimited = ~std::size_t{0};
  // Time lost to a member from which on it is left out: more than chance waits add up to between regions without any.
  static constexpr std::chrono::milliseconds kMostLost{4};
  // How long teams have a thread less before the next attempt.
  static constexpr std::chrono::milliseconds kShortestPause{4}, kLongestPause{1000};

  std::atomic<std::size_t> limit_{kUnlimited};
  std::atomic<Clock::rep> lost_{0}, pause_{Clock::duration(kShortestPause).count()}, retry_{0};
};

}  // namespace edgekiln

// A thread team: runs a sequence of parallel loops on threads that stay awake in between.
//
// A loop of the caller's thread pool wakes its threads each time, which takes as long as a small GEMV. A team enters
// that loop once. The first thread to arrive executes the region, a function that runs parallel loops; threads that
// arrive later execute iterations of these loops until the region returns. The region never waits for a thread that has
// not arrived, so any number of threads works.
//
// A thread that waits spins for as long as waits last where each thread has a core. Then it sleeps (on Linux by futex),
// which gives its core to the thread that it waits for: where other programs take a core, the operating system may have
// put that one aside for milliseconds in the middle of an iteration, and moves it to a core only when one is idle.
// While that lasts, teams are smaller (team_size.h).
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <thread>

#include "kernels/common/parallel.h"
#include "kernels/common/team_size.h"

namespace edgekiln {

// Of all teams of the process, since they run on the same cores.
inline TeamSize& process_team_size() {
  static TeamSize size;
  return size;
}

template <typename Region>
class ThreadTeam {
 public:
  // Executes region(const Parallel&) on one of the threads of `pool`, and its loops on at most `most` of them; rethrows
  // its exception.
  static void run(const Parallel& pool, const Region& region, std::size_t most = processors(),
                  TeamSize& size = process_team_size()) {
    ThreadTeam team(region);
    const Clock::time_point start = Clock::now();
    pool.run(pool.self, join, std::clamp<std::size_t>(std::min(most, size.limit(start)), 1, kMaxMembers), &team);
    size.record(team.joined_.load(std::memory_order_relaxed), start, Clock::now(),
                Clock::duration(team.slept_.load(std::memory_order_relaxed)));
    if (team.exception_) std::rethrow_exception(team.exception_);
  }

 private:
  using Task = void (*)(void*, std::size_t);
  using Clock = std::chrono::steady_clock;

  static constexpr std::size_t kMaxMembers = 32;
  static constexpr std::chrono::microseconds kSpin{100};
  static constexpr int kPauses = 64;  // between two looks at the clock
  // A member's range of iterations is one atomic word, so that claiming an iteration checks its loop, too:
  // the loop's number, the end of the range, the next iteration.
  static constexpr int kIterationBits = 20;
  static constexpr std::uint64_t kMaxIterations = (std::uint64_t{1} << kIterationBits) - 1;

  struct alignas(64) Range {
    std::atomic<std::uint64_t> state{0};
  };

  static std::size_t processors() {
    static const std::size_t count = std::thread::hardware_concurrency();
    return count;
  }

  explicit ThreadTeam(const Region& region) : region_(region) {}

  static void join(void* self, std::size_t) {
    ThreadTeam& team = *static_cast<ThreadTeam*>(self);
    const std::uint32_t member = team.joined_.fetch_add(1);
    if (member) {
      team.work(member);
      team.left_.fetch_add(1);
      return team.left_.notify_one();
    }
    try {
      team.region_(Parallel{loop, &team});
    } catch (...) {
      team.exception_ = std::current_exception();
    }
    team.finished_.store(true, std::memory_order_relaxed);
    team.publish();
    // The pool waits for the other members, too, but may spin while it does.
    for (std::uint32_t left = 0; (left = team.left_.load(std::memory_order_acquire)) + 1 != team.joined_.load();)
      team.sleep(team.left_, left);
  }

  // Executes iterations of all loops until the region returns.
  void work(std::size_t member) {
    for (;;) {
      const std::uint32_t seen = published_.load(std::memory_order_acquire);
      if (finished_.load(std::memory_order_relaxed)) return;
      if (!execute_iterations(member)) sleep(published_, seen);
    }
  }

  // Lets members that wait for it see a new loop, or the end of the region.
  void publish() {
    published_.fetch_add(1);
    published_.notify_all();
  }

  // Parallel::run of the region's loops.
  static void loop(void* self, Task task, std::size_t count, void* context) {
    ThreadTeam& team = *static_cast<ThreadTeam*>(self);
    if (count <= 1 || count > kMaxIterations) {
      for (std::size_t i = 0; i < count; ++i) task(context, i);
      return;
    }
    team.task_.store(task, std::memory_order_relaxed);
    team.context_.store(context, std::memory_order_relaxed);
    team.unfinished_.store(static_cast<std::uint32_t>(count), std::memory_order_relaxed);
    ++team.loops_;
    const std::size_t members = team.members();
    for (std::size_t i = 0; i < members; ++i) {
      const std::uint64_t first = i * count / members, end = (i + 1) * count / members;
      team.ranges_[i].state.store((team.loops_ << kIterationBits | end) << kIterationBits | first,
                                  std::memory_order_release);
    }
    team.publish();
    team.execute_iterations(0);
    for (std::uint32_t unfinished = 0; (unfinished = team.unfinished_.load(std::memory_order_acquire));)
      team.sleep(team.unfinished_, unfinished);
  }

  // Members so far, at most as many as there are ranges.
  std::size_t members() const { return std::min<std::size_t>(joined_.load(std::memory_order_relaxed), kMaxMembers); }

  // Executes iterations while there are any and returns their number: from the front of the member's own range, so that
  // it reads memory sequentially, then by work stealing from the ends of the other members' ranges.
  std::size_t execute_iterations(std::size_t member) {
    std::uint32_t executed = 0;
    const std::size_t members = this->members();
    for (std::size_t i = 0; i < members; ++i) {
      std::atomic<std::uint64_t>& state = ranges_[(member + i) % members].state;
      for (std::uint64_t seen = state.load(std::memory_order_acquire);;) {
        const std::uint64_t next = seen & kMaxIterations, end = seen >> kIterationBits & kMaxIterations;
        if (next >= end) break;
        // These may belong to a later loop; the range's word has changed then, and the exchange below fails.
        const Task task = task_.load(std::memory_order_relaxed);
        void* const context = context_.load(std::memory_order_relaxed);
        const std::uint64_t rest = i ? seen - (std::uint64_t{1} << kIterationBits) : seen + 1;
        if (!state.compare_exchange_weak(seen, rest, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
        task(context, i ? end - 1 : next);
        ++executed;
        seen = state.load(std::memory_order_acquire);
      }
    }
    if (executed && unfinished_.fetch_sub(executed) == executed) unfinished_.notify_one();
    return executed;
  }

  // Waits as wait() does, and counts how long it slept.
  void sleep(const std::atomic<std::uint32_t>& word, std::uint32_t seen) {
    const Clock::rep slept = wait(word, seen).count();
    if (slept) slept_.fetch_add(slept, std::memory_order_relaxed);
  }

  // Waits until `word` is not `seen` any more: spins, then sleeps until another thread changes and notifies it. A
  // thread whose spinning was in vain spins for less the next time, since the threads that it waits for may need its
  // core. Returns how long it slept.
  static Clock::duration wait(const std::atomic<std::uint32_t>& word, std::uint32_t seen) {
    thread_local Clock::duration limit = kSpin;
    Clock::time_point end{};
    for (;;) {
      for (int i = 0; i < kPauses; ++i) {
        if (word.load(std::memory_order_acquire) == seen) {
          pause();
          continue;
        }
        if (end != Clock::time_point{}) limit = std::min<Clock::duration>(2 * limit, kSpin);
        return {};
      }
      const Clock::time_point now = Clock::now();
      if (end == Clock::time_point{}) end = now + limit;
      if (now < end) continue;
      limit = std::max<Clock::duration>(limit / 2, kSpin / 64);
      word.wait(seen, std::memory_order_acquire);
      return Clock::now() - now;
    }
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb" ::: "memory");  // `yield` does nothing on most cores
#endif
  }

  const Region& region_;
  std::exception_ptr exception_;
  std::atomic<Clock::rep> slept_{0};  // by all members in all, while they waited for others
  // Threads that have joined the team, and those of them that have left it; the first one is not counted there.
  std::atomic<std::uint32_t> joined_{0};
  std::atomic<std::uint32_t> left_{0};
  std::atomic<bool> finished_{false};
  std::uint64_t loops_ = 0;
  std::atomic<Task> task_{nullptr};
  std::atomic<void*> context_{nullptr};
  Range ranges_[kMaxMembers];
  alignas(64) std::atomic<std::uint32_t> published_{0};   // loops so far, and the end of the region
  alignas(64) std::atomic<std::uint32_t> unfinished_{0};  // iterations of the loop that have not returned
};

// Executes region(const Parallel&) on a team of the threads of `pool`, the caller's.
template <typename Region>
void run_team(const Parallel& pool, const Region& region) {
  ThreadTeam<Region>::run(pool, region);
}

}  // namespace edgekiln

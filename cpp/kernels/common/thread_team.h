// A thread team: runs a sequence of parallel loops on threads that stay awake in between.
//
// A loop of the caller's thread pool wakes its threads each time, which takes as long as a small GEMV. A team enters
// that loop once. The first thread to arrive executes the region, a function that runs parallel loops; threads that
// arrive later execute iterations of these loops until the region returns. The region never waits for a thread that has
// not arrived, so any number of threads works.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>

#include "kernels/common/parallel.h"

namespace edgekiln {

template <typename Region>
class ThreadTeam {
 public:
  // Executes region(const Parallel&) on one of the threads of `pool`, and its loops on all; rethrows its exception.
  static void run(const Parallel& pool, const Region& region) {
    static const std::size_t members = std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, kMaxMembers);
    ThreadTeam team(region, members);
    pool.run(pool.self, join, members, &team);
    if (team.exception_) std::rethrow_exception(team.exception_);
  }

 private:
  using Task = void (*)(void*, std::size_t);

  static constexpr std::size_t kMaxMembers = 32;
  static constexpr int kSpins = 1 << 11;
  // A member's range of iterations is one atomic word, so that claiming an iteration checks its loop, too:
  // the loop's number, the end of the range, the next iteration.
  static constexpr int kIterationBits = 20;
  static constexpr std::uint64_t kMaxIterations = (std::uint64_t{1} << kIterationBits) - 1;

  struct alignas(64) Range {
    std::atomic<std::uint64_t> state{0};
  };

  ThreadTeam(const Region& region, std::size_t members) : region_(region), members_(members) {}

  static void join(void* self, std::size_t) {
    ThreadTeam& team = *static_cast<ThreadTeam*>(self);
    const std::size_t member = team.joined_.fetch_add(1);
    if (member) return team.work(member % team.members_);
    try {
      team.region_(Parallel{loop, &team});
    } catch (...) {
      team.exception_ = std::current_exception();
    }
    team.finished_.store(true, std::memory_order_release);
  }

  // Executes iterations of all loops until the region returns.
  void work(std::size_t member) {
    for (int idle = 0; !finished_.load(std::memory_order_acquire);) {
      if (execute_iterations(member)) {
        idle = 0;
      } else {
        wait(++idle);
      }
    }
  }

  // Spins for waits of microseconds, then yields: the thread waited for may need this core.
  static void wait(int idle) {
    if (idle < kSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }

  // Parallel::run of the region's loops.
  static void loop(void* self, Task task, std::size_t count, void* context) {
    ThreadTeam& team = *static_cast<ThreadTeam*>(self);
    if (count == 1 || count > kMaxIterations) {
      for (std::size_t i = 0; i < count; ++i) task(context, i);
      return;
    }
    team.task_.store(task, std::memory_order_relaxed);
    team.context_.store(context, std::memory_order_relaxed);
    team.done_.store(0, std::memory_order_relaxed);
    ++team.loops_;
    for (std::size_t i = 0; i < team.members_; ++i) {
      const std::uint64_t first = i * count / team.members_, end = (i + 1) * count / team.members_;
      team.ranges_[i].state.store((team.loops_ << kIterationBits | end) << kIterationBits | first,
                                  std::memory_order_release);
    }
    team.execute_iterations(0);
    for (int idle = 0; team.done_.load(std::memory_order_acquire) != count;) wait(++idle);
  }

  // Executes iterations while there are any and returns their number: from the front of the member's own range, so that
  // it reads memory sequentially, then by work stealing from the ends of the other members' ranges.
  std::size_t execute_iterations(std::size_t member) {
    std::size_t executed = 0;
    for (std::size_t i = 0; i < members_; ++i) {
      std::atomic<std::uint64_t>& state = ranges_[(member + i) % members_].state;
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
    if (executed) done_.fetch_add(executed, std::memory_order_release);
    return executed;
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  const Region& region_;
  const std::size_t members_;
  std::exception_ptr exception_;
  std::atomic<std::size_t> joined_{0};
  std::atomic<bool> finished_{false};
  std::uint64_t loops_ = 0;
  std::atomic<Task> task_{nullptr};
  std::atomic<void*> context_{nullptr};
  Range ranges_[kMaxMembers];
  alignas(64) std::atomic<std::size_t> done_{0};
};

}  // namespace edgekiln

// Several parallel loops one after another on threads that stay awake between them.
//
// A caller's own parallel loop hands work to its threads anew each time, which costs as much as a small product. Here
// it is entered once: the thread that comes first runs a script, and those that come later help with the script's loops
// until it ends. Nobody waits for a helper that has not come, so any number of threads will do.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>

#include "kernels/parallel.h"

namespace edgekiln {

template <typename Script>
class Team {
 public:
  // Runs script(const Parallel&) on a thread of `threads`; throws what it throws.
  static void run(const Parallel& threads, const Script& script) {
    static const std::size_t members = std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, kMostMembers);
    Team team(script, members);
    threads.run(threads.self, join, members, &team);
    if (team.failure_) std::rethrow_exception(team.failure_);
  }

 private:
  using Work = void (*)(void*, std::size_t);

  static constexpr std::size_t kMostMembers = 32;
  static constexpr int kSpins = 1 << 11;
  // A member's share of a loop is one number, so that a claim of a turn and its loop cannot come apart: which loop, the
  // end of its turns, the next one.
  static constexpr int kTurnBits = 20;
  static constexpr std::uint64_t kTurns = (std::uint64_t{1} << kTurnBits) - 1;

  struct alignas(64) Share {
    std::atomic<std::uint64_t> state{0};
  };

  Team(const Script& script, std::size_t members) : script_(script), members_(members) {}

  static void join(void* self, std::size_t) {
    Team& team = *static_cast<Team*>(self);
    const std::size_t member = team.joined_.fetch_add(1);
    if (member) return team.help(member % team.members_);
    try {
      team.script_(Parallel{loop, &team});
    } catch (...) {
      team.failure_ = std::current_exception();
    }
    team.over_.store(true, std::memory_order_release);
  }

  void help(std::size_t member) {
    for (int idle = 0; !over_.load(std::memory_order_acquire);) {
      if (take_turns(member)) {
        idle = 0;
      } else {
        wait(++idle);
      }
    }
  }

  // Spinning is for waits of microseconds: after longer ones, the thread that is waited for may need this core.
  static void wait(int idle) {
    if (idle < kSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }

  static void loop(void* self, Work work, std::size_t count, void* context) {
    Team& team = *static_cast<Team*>(self);
    if (count == 1 || count > kTurns) {
      for (std::size_t i = 0; i < count; ++i) work(context, i);
      return;
    }
    team.work_.store(work, std::memory_order_relaxed);
    team.context_.store(context, std::memory_order_relaxed);
    team.done_.store(0, std::memory_order_relaxed);
    ++team.loops_;
    for (std::size_t i = 0; i < team.members_; ++i) {
      const std::uint64_t first = i * count / team.members_, end = (i + 1) * count / team.members_;
      team.shares_[i].state.store((team.loops_ << kTurnBits | end) << kTurnBits | first, std::memory_order_release);
    }
    team.take_turns(0);
    for (int idle = 0; team.done_.load(std::memory_order_acquire) != count;) wait(++idle);
  }

  // Takes turns while there are any: from the front of its own share, so that a member reads memory from front to back,
  // then from the ends of the others'. How many it took.
  std::size_t take_turns(std::size_t member) {
    std::size_t taken = 0;
    for (std::size_t i = 0; i < members_; ++i) {
      std::atomic<std::uint64_t>& state = shares_[(member + i) % members_].state;
      for (std::uint64_t seen = state.load(std::memory_order_acquire);;) {
        const std::uint64_t next = seen & kTurns, end = seen >> kTurnBits & kTurns;
        if (next >= end) break;
        // They may be those of a later loop; then `seen` is past and the claim fails.
        const Work work = work_.load(std::memory_order_relaxed);
        void* const context = context_.load(std::memory_order_relaxed);
        const std::uint64_t left = i ? seen - (std::uint64_t{1} << kTurnBits) : seen + 1;
        if (!state.compare_exchange_weak(seen, left, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
        work(context, i ? end - 1 : next);
        ++taken;
        seen = state.load(std::memory_order_acquire);
      }
    }
    if (taken) done_.fetch_add(taken, std::memory_order_release);
    return taken;
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  const Script& script_;
  const std::size_t members_;
  std::exception_ptr failure_;
  std::atomic<std::size_t> joined_{0};
  std::atomic<bool> over_{false};
  std::uint64_t loops_ = 0;
  std::atomic<Work> work_{nullptr};
  std::atomic<void*> context_{nullptr};
  Share shares_[kMostMembers];
  alignas(64) std::atomic<std::size_t> done_{0};
};

}  // namespace edgekiln

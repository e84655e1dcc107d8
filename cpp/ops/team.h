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

#include "parallel.h"

namespace edgekiln {

template <typename Script>
class Team {
 public:
  // Runs script(const Parallel&) on a thread of `threads`; throws what it throws.
  static void run(const Parallel& threads, const Script& script) {
    static const std::size_t members = std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, kMostMembers);
    Team team(script);
    threads.run(threads.self, join, members, &team);
    if (team.failure_) std::rethrow_exception(team.failure_);
  }

 private:
  using Work = void (*)(void*, std::size_t);

  static constexpr std::size_t kMostMembers = 32;
  static constexpr int kSpins = 1 << 11;
  // A loop is one number, so that a claim of a turn and its loop cannot come apart: which loop, turns, next turn.
  static constexpr int kTurnBits = 24;
  static constexpr std::uint64_t kTurns = (std::uint64_t{1} << kTurnBits) - 1;

  explicit Team(const Script& script) : script_(script) {}

  static void join(void* self, std::size_t) {
    Team& team = *static_cast<Team*>(self);
    if (team.led_.exchange(true)) return team.help();
    try {
      team.script_(Parallel{loop, &team});
    } catch (...) {
      team.failure_ = std::current_exception();
    }
    team.over_.store(true, std::memory_order_release);
  }

  void help() {
    for (int idle = 0; !over_.load(std::memory_order_acquire);) {
      if (take_turn()) {
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
    team.loop_.store(((team.loops_ << kTurnBits | count) << kTurnBits), std::memory_order_release);
    while (team.take_turn()) {
    }
    for (int idle = 0; team.done_.load(std::memory_order_acquire) != count;) wait(++idle);
  }

  // False if no turn is left.
  bool take_turn() {
    std::uint64_t seen = loop_.load(std::memory_order_acquire);
    const std::uint64_t turn = seen & kTurns, count = seen >> kTurnBits & kTurns;
    if (turn >= count) return false;
    // They may be those of a later loop; then `seen` is past and the claim fails.
    const Work work = work_.load(std::memory_order_relaxed);
    void* const context = context_.load(std::memory_order_relaxed);
    if (!loop_.compare_exchange_strong(seen, seen + 1, std::memory_order_acq_rel)) return true;
    work(context, turn);
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  const Script& script_;
  std::exception_ptr failure_;
  std::atomic<bool> led_{false}, over_{false};
  std::uint64_t loops_ = 0;
  std::atomic<Work> work_{nullptr};
  std::atomic<void*> context_{nullptr};
  alignas(64) std::atomic<std::uint64_t> loop_{0};
  alignas(64) std::atomic<std::size_t> done_{0};
};

}  // namespace edgekiln

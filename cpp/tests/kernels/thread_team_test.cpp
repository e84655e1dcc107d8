// Thread teams: each iteration runs once and before the next loop begins, however many threads join and when.
#include "kernels/common/thread_team.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

// The threads of a pool. Late ones join when the first thread has finished most of the work.
struct Threads {
  std::size_t count;
  bool late;
};

// Parallel::run of a pool of Threads.
void pool_run(void* self, void (*task)(void*, std::size_t), std::size_t count, void* context) {
  const Threads& threads = *static_cast<Threads*>(self);
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < count; i = next++) task(context, i);
  };
  std::vector<std::jthread> workers;
  for (std::size_t i = 1; i < threads.count; ++i) {
    workers.emplace_back([&] {
      if (threads.late) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      work();
    });
  }
  work();
}

template <typename Region>
void run(Threads threads, const Region& region) {
  edgekiln::ThreadTeam<Region>::run({pool_run, &threads}, region, threads.count);
}

// Whether loops run in order: each adds the mirrored results of the loop before, so that an iteration that runs early,
// twice or never changes the sums.
bool in_order(Threads threads, std::size_t loops, std::size_t iterations) {
  struct State {
    std::vector<std::size_t> before, after;
  };
  State state{std::vector<std::size_t>(iterations, 1), std::vector<std::size_t>(iterations)};
  run(threads, [&](const edgekiln::Parallel& parallel) {
    for (std::size_t loop = 0; loop < loops; ++loop) {
      parallel.run(
          parallel.self,
          [](void* context, std::size_t i) {
            State& both = *static_cast<State*>(context);
            both.after[i] += both.before[both.before.size() - 1 - i];
          },
          iterations, &state);
      state.before = state.after;
    }
  });
  std::size_t expected = 1;
  for (std::size_t loop = 1; loop < loops; ++loop) expected *= 2;
  for (const std::size_t value : state.after)
    if (value != expected) return false;
  return true;
}

// Loops whose iterations and whose serial parts in between last longer than a thread of the team spins, so that threads
// sleep and have to be woken. Returns the number of iterations that ran.
std::size_t slow_loops(Threads threads, std::size_t loops, std::size_t iterations) {
  std::atomic<std::size_t> ran{0};
  const auto longer_than_spinning = [] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  run(threads, [&](const edgekiln::Parallel& parallel) {
    for (std::size_t loop = 0; loop < loops; ++loop) {
      longer_than_spinning();
      parallel.run(
          parallel.self,
          [](void* context, std::size_t i) {
            if (i % 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
            ++*static_cast<std::atomic<std::size_t>*>(context);
          },
          iterations, &ran);
    }
  });
  return ran;
}

constexpr Threads kThreads[] = {{1, false}, {2, false}, {4, false}, {3, true}};

}  // namespace

TEST_CASE("every iteration runs once and before the next loop begins") {
  for (const Threads threads : kThreads) {
    INFO(threads.count, " threads, late ", threads.late);
    for (int repeat = 0; repeat < 50; ++repeat) {
      CHECK(in_order(threads, 20, 1));
      CHECK(in_order(threads, 20, 7));
      CHECK(in_order(threads, 5, 1000));
      CHECK(in_order(threads, 1, 0));
    }
  }
}

TEST_CASE("threads that sleep are woken") {
  for (const Threads threads : kThreads) {
    INFO(threads.count, " threads, late ", threads.late);
    CHECK(slow_loops(threads, 10, 5) == 50);
  }
}

TEST_CASE("more threads than processors") {
  const std::size_t processors = std::max(1U, std::thread::hardware_concurrency());
  for (const std::size_t count : {processors + 1, 4 * processors}) {
    INFO(count, " threads");
    for (int repeat = 0; repeat < 5; ++repeat) {
      CHECK(in_order({count, false}, 50, 7));
      CHECK(in_order({count, false}, 20, 200));
    }
    CHECK(slow_loops({count, false}, 10, 5) == 50);
  }
}

TEST_CASE("more threads than processors of one process in several teams at once") {
  std::atomic<int> right{0};
  {
    std::vector<std::jthread> teams;
    for (int team = 0; team < 4; ++team) teams.emplace_back([&] { right += in_order({3, false}, 100, 7); });
  }
  CHECK(right == 4);
}

TEST_CASE("members that wait leave their processors to others") {
  constexpr double kSeconds = 0.3;
  constexpr std::size_t kMembers = 4;
  const std::clock_t before = std::clock();
  run({kMembers, false}, [&](const edgekiln::Parallel& parallel) {
    parallel.run(parallel.self, [](void*, std::size_t) {}, 8, nullptr);
    std::this_thread::sleep_for(std::chrono::duration<double>(kSeconds));
  });
  // Processor time of all threads, which is that of one processor at least if any of them spins.
  CHECK(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC < kSeconds / 10);
}

TEST_CASE("an exception of the region reaches the caller") {
  for (const Threads threads : kThreads) {
    for (int repeat = 0; repeat < 50; ++repeat) {
      INFO(threads.count, " threads, late ", threads.late);
      CHECK_THROWS_WITH_AS(run(threads, [](const edgekiln::Parallel&) { throw std::runtime_error("no memory"); }),
                           "no memory", std::runtime_error);
    }
  }
}

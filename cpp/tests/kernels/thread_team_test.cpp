// Loops that a team runs one after another: every turn once, before the next loop begins, whoever comes to help.
#include "kernels/thread_team.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

// Threads that enter a loop at once, or of which only the first does before the loop's work is over.
struct Threads {
  std::size_t count;
  bool late;
};

void enter(void* self, void (*task)(void*, std::size_t), std::size_t count, void* context) {
  const Threads& threads = *static_cast<Threads*>(self);
  std::atomic<std::size_t> next{0};
  const auto take = [&] {
    for (std::size_t i = next++; i < count; i = next++) task(context, i);
  };
  std::vector<std::jthread> helpers;
  for (std::size_t i = 1; i < threads.count; ++i) {
    helpers.emplace_back([&] {
      if (threads.late) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      take();
    });
  }
  take();
}

template <typename Script>
void run(Threads threads, const Script& script) {
  edgekiln::Team<Script>::run({enter, &threads}, script);
}

// Each loop adds its turns to what the one before left, so a turn that comes early, twice or never shows.
bool in_order(Threads threads, std::size_t loops, std::size_t turns) {
  struct State {
    std::vector<std::size_t> before, after;
  };
  State state{std::vector<std::size_t>(turns, 1), std::vector<std::size_t>(turns)};
  run(threads, [&](const edgekiln::Parallel& parallel) {
    for (std::size_t loop = 0; loop < loops; ++loop) {
      parallel.run(
          parallel.self,
          [](void* context, std::size_t i) {
            State& both = *static_cast<State*>(context);
            both.after[i] += both.before[both.before.size() - 1 - i];
          },
          turns, &state);
      state.before = state.after;
    }
  });
  std::size_t expected = 1;
  for (std::size_t loop = 1; loop < loops; ++loop) expected *= 2;
  for (const std::size_t value : state.after)
    if (value != expected) return false;
  return true;
}

bool rethrows(Threads threads) {
  try {
    run(threads, [](const edgekiln::Parallel&) { throw std::runtime_error("no memory"); });
  } catch (const std::runtime_error& error) {
    return error.what() == std::string("no memory");
  }
  return false;
}

}  // namespace

int main() {
  int failures = 0;
  const auto expect = [&](bool held, const char* what, const Threads& threads) {
    if (held) return;
    std::printf("%zu threads%s: %s\n", threads.count, threads.late ? ", late" : "", what);
    ++failures;
  };
  for (const Threads threads : {Threads{1, false}, {2, false}, {4, false}, {3, true}}) {
    for (int repeat = 0; repeat < 50; ++repeat) {
      expect(in_order(threads, 20, 1), "one turn a loop", threads);
      expect(in_order(threads, 20, 7), "few turns", threads);
      expect(in_order(threads, 5, 1000), "many turns", threads);
      expect(in_order(threads, 1, 0), "no turn", threads);
    }
    expect(rethrows(threads), "an exception is lost", threads);
  }
  return failures != 0;
}

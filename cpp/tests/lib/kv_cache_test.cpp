// Growth of a KV cache's storage, rewinding, window buffers, states and snapshots.
#include "runtime/kv_cache.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "runtime/window_buffer.h"

namespace {

using namespace edgekiln;

class CountingKVCache final : public KVCache {
 public:
  using KVCache::KVCache;
  std::vector<std::int64_t> grown;

 private:
  Result<void> grow(std::int64_t capacity) override {
    grown.push_back(capacity);
    return {};
  }
};

Properties properties(std::int64_t max_length) {
  Manifest manifest;
  manifest.architecture.max_length = max_length;
  return Properties(manifest);
}

TEST_CASE("storage grows by a quarter, in steps of 64, up to max_length") {
  const Properties limits = properties(2000);
  CountingKVCache cache(limits);
  REQUIRE(cache.reserve(1));
  CHECK(cache.capacity() == 256);
  REQUIRE(cache.reserve(256));
  CHECK(cache.grown.size() == 1);
  // Room for an answer after a prompt.
  REQUIRE(cache.reserve(512));
  CHECK(cache.capacity() == 640);
  // A quarter more than before: 800, rounded up.
  REQUIRE(cache.reserve(641));
  CHECK(cache.capacity() == 832);
  REQUIRE(cache.reserve(833));
  CHECK(cache.capacity() == 1088);
  REQUIRE(cache.reserve(1900));
  CHECK(cache.capacity() == 2000);
  CHECK(cache.reserve(2001).error().code == Code::kRequest);
  CHECK(cache.grown == std::vector<std::int64_t>{256, 640, 832, 1088, 2000});
}

TEST_CASE("a small engine gets its max_length at once") {
  const Properties limits = properties(100);
  CountingKVCache cache(limits);
  REQUIRE(cache.reserve(1));
  CHECK(cache.capacity() == 100);
}

// Holds the last 100 tokens only.
class ShortKVCache final : public KVCache {
 public:
  using KVCache::KVCache;
  bool was_emptied = false;

 private:
  Result<void> grow(std::int64_t) override { return {}; }
  bool holds(std::int64_t length) const override { return this->length() - length <= 100; }
  void emptied() override { was_emptied = true; }
};

TEST_CASE("a rewind keeps the prefix or nothing") {
  const Properties limits = properties(2000);
  ShortKVCache cache(limits);
  const std::vector<std::int64_t> tokens(500, 7);
  REQUIRE(cache.reserve(500));
  cache.append(tokens);
  CHECK(cache.rewindable(420) == 420);
  CHECK(cache.rewind(420) == 420);
  CHECK(cache.length() == 420);
  CHECK(!cache.was_emptied);
  CHECK(cache.rewindable(319) == 0);
  CHECK(cache.rewind(319) == 0);
  CHECK(cache.length() == 0);
  CHECK(cache.was_emptied);
}

// One state: the sum of the tokens.
class SumStates final : public States {
 public:
  // What a run on `tokens` does.
  void run(std::size_t front, const std::vector<std::int64_t>& tokens) {
    sums_[1 - front] = sums_[front];
    for (const std::int64_t token : tokens) sums_[1 - front] += token;
  }
  std::int64_t sum(std::size_t buffer) const { return sums_[buffer]; }

 private:
  Result<Snapshots::States> save(std::size_t buffer) override {
    const auto* const bytes = reinterpret_cast<const std::byte*>(&sums_[buffer]);
    return Snapshots::States(bytes, bytes + sizeof sums_[buffer]);
  }
  Result<void> load(std::size_t buffer, const Snapshots::States& states) override {
    std::copy(states.begin(), states.end(), reinterpret_cast<std::byte*>(&sums_[buffer]));
    return {};
  }
  Result<void> clear(std::size_t buffer) override {
    sums_[buffer] = 0;
    return {};
  }

  std::int64_t sums_[2] = {-1, -1};
};

// Holds the last 700 keys only.
class StateKVCache final : public KVCache {
 public:
  explicit StateKVCache(const Properties& limits) : KVCache(limits, std::make_unique<SumStates>()) {}

  // Append `count` tokens of value 1 as a runtime does; returns the state after them.
  std::int64_t extend(std::int64_t count) {
    const std::vector<std::int64_t> tokens(static_cast<std::size_t>(count), 1);
    REQUIRE(reserve(length() + count));
    if (count > 1) REQUIRE(begin_prompt());
    const Result<std::size_t> front = begin_run();
    REQUIRE(front);
    auto& sums = static_cast<SumStates&>(*states());
    sums.run(*front, tokens);
    append(tokens);
    REQUIRE(snapshot_if_due());
    if (count > 1) REQUIRE(end_prompt());
    return sums.sum(1 - *front);
  }

  // A run whose result is not recorded.
  void fail_run() {
    const Result<std::size_t> front = begin_run();
    REQUIRE(front);
    static_cast<SumStates&>(*states()).run(*front, {1000});
  }

  std::vector<std::int64_t> snapshots() const { return states()->snapshots().lengths(); }

 private:
  Result<void> grow(std::int64_t) override { return {}; }
  bool holds(std::int64_t length) const override { return this->length() - length <= 700; }
};

TEST_CASE("a sequence with states is rewound to its snapshots") {
  const Properties limits = properties(100000);
  StateKVCache cache(limits);
  CHECK(cache.extend(600) == 600);
  for (std::int64_t length = 601; length <= 630; ++length) CHECK(cache.extend(1) == length);
  CHECK(cache.snapshots() == std::vector<std::int64_t>{600});
  CHECK((cache.rewindable(630) == 630 && cache.rewindable(629) == 600 && cache.rewindable(599) == 0));
  CHECK(cache.rewind(630) == 630);
  CHECK(cache.extend(70) == 700);
  CHECK(cache.snapshots() == std::vector<std::int64_t>{600, 630, 700});
  CHECK(cache.rewind(699) == 630);
  cache.fail_run();
  CHECK(cache.extend(1) == 631);
  cache.fail_run();
  cache.fail_run();
  CHECK(cache.extend(1) == 632);
  CHECK(cache.snapshots() == std::vector<std::int64_t>{600, 630});
  for (std::int64_t length = 633; length <= 1400; ++length) CHECK(cache.extend(1) == length);
  CHECK(cache.snapshots() == std::vector<std::int64_t>{600, 630, 1142});
  CHECK(cache.rewindable(1141) == 0);  // the keys after token 630 are gone
  CHECK(cache.rewind(1200) == 1142);
  CHECK(cache.extend(5) == 1147);
  CHECK(cache.rewind(0) == 0);
  CHECK(cache.extend(1) == 1);
  CHECK(cache.snapshots().empty());
}

TEST_CASE("of too many snapshots the one with the smallest gap is dropped") {
  // tests/runtimes/test_snapshots.py has the same lengths.
  const auto kept = [](const std::vector<std::int64_t>& lengths, std::int64_t prompt_end) {
    Snapshots snapshots;
    snapshots.end_prompt(prompt_end);
    for (const std::int64_t length : lengths) snapshots.add(length, {});
    return snapshots.lengths();
  };
  using Lengths = std::vector<std::int64_t>;
  CHECK(kept({10, 15, 30, 100, 200, 300, 400, 500, 501}, 0) == Lengths{15, 30, 100, 200, 300, 400, 500, 501});
  CHECK(kept({10, 15, 30, 100, 200, 300, 400, 500, 501, 502}, 0) == Lengths{15, 30, 100, 200, 300, 400, 500, 502});
  CHECK(kept({100, 200, 300, 400, 500, 600, 700, 800, 900}, 0) == Lengths{200, 300, 400, 500, 600, 700, 800, 900});
  CHECK(kept({100, 200, 300, 400, 500, 600, 700, 800, 900}, 100) == Lengths{100, 300, 400, 500, 600, 700, 800, 900});
  CHECK(kept({1, 2, 3, 4, 5, 6, 7, 8, 9}, 1) == Lengths{1, 3, 4, 5, 6, 7, 8, 9});
}

TEST_CASE("window buffers hold what queries see, and the last 512 tokens can always be dropped") {
  for (const std::int64_t window : {1, 64, 500, 4096}) {
    for (const std::int64_t chunk : {1, 256, 3000}) {
      const WindowBuffer buffer = WindowBuffer::of(window, chunk);
      std::int64_t start = 0, moves = 0;
      for (std::int64_t length = 0; length < 20000; length += std::max<std::int64_t>(1, chunk / 3)) {
        const std::int64_t next = buffer.start_for(start, length, chunk);
        CHECK(next % 64 == 0);
        CHECK(length + chunk - next <= buffer.capacity);
        CHECK(buffer.holds(next, length));
        CHECK(buffer.holds(next, std::max<std::int64_t>(0, length - 512)));
        CHECK(next >= start);
        moves += next != start;
        start = next;
      }
      CHECK(moves >= 1);
      CHECK(!buffer.holds(start, start + window - 2));
    }
  }
}

TEST_CASE("window buffers are as large as in Python") {
  // tests/runtimes/test_window_buffer.py has the same sizes.
  CHECK(WindowBuffer::of(64, 256).capacity == 1088);
  CHECK(WindowBuffer::of(512, 256).capacity == 1536);
  CHECK(WindowBuffer::of(2047, 4096).capacity == 6720);
  CHECK(WindowBuffer::of(64, 256).start_for(0, 1088, 1) == 512);
  CHECK(WindowBuffer::of(64, 256).start_for(512, 1600, 8) == 1024);
}

}  // namespace

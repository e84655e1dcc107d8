// Growth of a KV cache's storage, rewinding, and window buffers.
#include "runtime/kv_cache.h"

#include <doctest/doctest.h>

#include <algorithm>
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

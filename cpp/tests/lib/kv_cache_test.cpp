// Growth of a KV cache's storage.
#include "runtime/kv_cache.h"

#include <doctest/doctest.h>

#include <vector>

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

}  // namespace

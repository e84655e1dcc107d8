#include "kernels/common/weight_arena.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "testing.h"

namespace {

constexpr std::size_t kAllocations = 40, kSize = (1 << 20) + 100;

edgekiln::ArenaBytes filled(std::uint8_t value) {
  edgekiln::ArenaBytes memory = edgekiln::arena_allocate(kSize);
  std::fill_n(memory.get(), kSize, value);
  return memory;
}

bool all_are(const edgekiln::ArenaBytes& memory, std::size_t value) {
  return std::all_of(memory.get(), memory.get() + kSize, [&](std::uint8_t byte) { return byte == value; });
}

}  // namespace

TEST_CASE("allocations keep their content, and freeing some returns their pages to the system") {
  std::vector<edgekiln::ArenaBytes> allocations;
  for (std::size_t i = 0; i < kAllocations; ++i) {
    allocations.push_back(filled(static_cast<std::uint8_t>(i)));
    CHECK(reinterpret_cast<std::uintptr_t>(allocations[i].get()) % 64 == 0);
  }
  const long held = kilobytes_of("RssAnon");
  for (std::size_t i = 0; i < kAllocations; i += 2) allocations[i].reset();
  for (std::size_t i = 1; i < kAllocations; i += 2) {
    CAPTURE(i);
    CHECK(all_are(allocations[i], i));
  }
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(held - kilobytes_of("RssAnon") > static_cast<long>(kAllocations / 2 * kSize / 1024 * 9 / 10));
#else
  static_cast<void>(held);
#endif
}

TEST_CASE("memory can be allocated again after everything was freed") {
  filled(1).reset();
  CHECK(all_are(filled(7), 7));
}

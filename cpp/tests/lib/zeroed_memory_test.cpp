// Zeroed memory: alignment, contents, moves, and dropped pages.
#include "util/zeroed_memory.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/common/pages.h"

using edgekiln::ZeroedMemory;

TEST_CASE("memory is zero, aligned and keeps its contents") {
  constexpr std::size_t kSize = (std::size_t{3} << 20) + 123, kHalf = kSize / 2;
  CHECK_FALSE(ZeroedMemory());
  for (const bool huge : {false, true}) {
    ZeroedMemory memory(kSize, huge);
    REQUIRE(memory);
    CHECK(reinterpret_cast<std::uintptr_t>(memory.get()) % (std::size_t{2} << 20) == 0);
    CHECK(std::all_of(memory.get(), memory.get() + kSize, [](std::byte byte) { return byte == std::byte{0}; }));
    std::memset(memory.get(), 5, kSize);
    ZeroedMemory moved;
    moved = std::move(memory);
    edgekiln::drop_pages(moved.get(), kHalf);
    CHECK(std::all_of(moved.get() + kHalf, moved.get() + kSize, [](std::byte byte) { return byte == std::byte{5}; }));
  }
  CHECK_FALSE(ZeroedMemory(std::size_t{1} << 60, false));
}

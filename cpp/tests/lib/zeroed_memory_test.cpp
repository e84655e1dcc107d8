// Memory of zeros keeps what is written to it, also past a move, but for what is given back.
#include "util/zeroed_memory.h"

#include <cstdint>
#include <cstring>
#include <utility>

#include "check.h"
#include "kernels/pages.h"

int main() {
  using edgekiln::ZeroedMemory;
  constexpr std::size_t kSize = (std::size_t{3} << 20) + 123, kHalf = kSize / 2;
  CHECK(!ZeroedMemory());
  for (const bool huge : {false, true}) {
    ZeroedMemory memory(kSize, huge);
    CHECK(memory);
    CHECK(reinterpret_cast<std::uintptr_t>(memory.get()) % (std::size_t{2} << 20) == 0);
    for (std::size_t i = 0; i < kSize; ++i) CHECK(memory.get()[i] == std::byte{0});
    std::memset(memory.get(), 5, kSize);
    ZeroedMemory moved;
    moved = std::move(memory);
    edgekiln::give_back(moved.get(), kHalf);
    for (std::size_t i = kHalf; i < kSize; ++i) CHECK(moved.get()[i] == std::byte{5});
  }
  CHECK(!ZeroedMemory(std::size_t{1} << 60, false));
}

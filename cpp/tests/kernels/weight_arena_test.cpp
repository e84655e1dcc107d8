// Pieces of lasting memory keep what is written to them until they go, and what they took then goes back.
#include "kernels/weight_arena.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "testing.h"

namespace {

constexpr std::size_t kPieces = 40, kSize = (1 << 20) + 100;

bool all_are(const edgekiln::LastingBytes& piece, std::size_t value) {
  return std::all_of(piece.get(), piece.get() + kSize, [&](std::uint8_t byte) { return byte == value; });
}

}  // namespace

int main() {
  std::vector<edgekiln::LastingBytes> pieces;
  int failures = 0;
  const auto expect = [&](bool holds, const char* what) {
    if (holds) return;
    std::printf("%s\n", what);
    ++failures;
  };
  for (std::size_t i = 0; i < kPieces; ++i) {
    pieces.push_back(edgekiln::lasting_bytes(kSize));
    std::fill_n(pieces[i].get(), kSize, static_cast<std::uint8_t>(i));
    expect(reinterpret_cast<std::uintptr_t>(pieces[i].get()) % 64 == 0, "a piece begins within a line of the cache");
  }
  const long held = kilobytes_of("RssAnon");
  for (std::size_t i = 0; i < kPieces; i += 2) pieces[i].reset();
  for (std::size_t i = 1; i < kPieces; i += 2) expect(all_are(pieces[i], i), "a piece lost what it held");
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const long given_back = held - kilobytes_of("RssAnon");
  expect(given_back > static_cast<long>(kPieces / 2 * kSize / 1024 * 9 / 10), "memory stayed when its pieces went");
#else
  static_cast<void>(held);
#endif
  pieces.clear();
  const edgekiln::LastingBytes again = edgekiln::lasting_bytes(kSize);
  std::fill_n(again.get(), kSize, std::uint8_t{7});
  expect(all_are(again, 7), "a later piece does not keep what it holds");
  return failures != 0;
}

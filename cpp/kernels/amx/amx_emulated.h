// The tile instructions of amx.h, executed one by one in memory: tests run the AMX kernels on processors without AMX.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace edgekiln::EDGEKILN_ISA::tiles {

struct Configured {
  Configured() {}  // user-provided, so that an object does not count as unused
};

union Register {
  std::uint8_t bytes[kRows][kBytes];
  std::int8_t int8[kRows][kBytes];
  std::uint16_t bf16[kRows][kBytes / 2];
  std::int32_t int32[kRows][kBytes / 4];
  float float32[kRows][kBytes / 4];
};

inline Register& tile_register(int tile) {
  thread_local Register registers[8];
  return registers[tile];
}

template <int Tile>
inline void load(const void* from, std::size_t stride) {
  for (std::size_t row = 0; row < kRows; ++row)
    std::memcpy(tile_register(Tile).bytes[row], static_cast<const std::uint8_t*>(from) + row * stride, kBytes);
}

template <int Tile>
inline void store(void* to, std::size_t stride) {
  for (std::size_t row = 0; row < kRows; ++row)
    std::memcpy(static_cast<std::uint8_t*>(to) + row * stride, tile_register(Tile).bytes[row], kBytes);
}

template <int Tile>
inline void zero() {
  tile_register(Tile) = {};
}

inline float to_float(std::uint16_t bf16) {
  const std::uint32_t bits = std::uint32_t{bf16} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <Type Operands, int C, int A, int B>
inline void multiply_add() {
  Register& c = tile_register(C);
  const Register &a = tile_register(A), &b = tile_register(B);
  for (std::size_t row = 0; row < kRows; ++row)
    for (std::size_t column = 0; column < kRows; ++column) {
      for (std::size_t k = 0; k < kBytes / 4; ++k) {
        if constexpr (Operands == Type::kBf16) {
          for (std::size_t i = 0; i < 2; ++i)
            c.float32[row][column] += to_float(a.bf16[row][2 * k + i]) * to_float(b.bf16[k][2 * column + i]);
        } else {
          for (std::size_t i = 0; i < 4; ++i)
            c.int32[row][column] += a.bytes[row][4 * k + i] * b.int8[k][4 * column + i];
        }
      }
    }
}

}  // namespace edgekiln::EDGEKILN_ISA::tiles

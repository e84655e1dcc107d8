// The tiles of processors that multiply them (AMX): registers of 16 rows of 64 bytes. Compiled without their
// instructions this does the same step by step in memory, for tests on processors that lack them.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBUSD and TDPBF16PS.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/bf16.h"

#if defined(EDGEKILN_TILES)

namespace edgekiln::EDGEKILN_ISA::tiles {

inline constexpr std::size_t kRows = 16, kBytes = 64, kTile = kRows * kBytes;

// Rows that memory must hold to be read as tiles.
inline constexpr std::size_t whole_rows(std::size_t rows) { return (rows + kRows - 1) / kRows * kRows; }

// From one of them to the next, of so many bytes: whole tiles, and an odd number of lines of the cache, as even ones
// would share a few of its sets.
inline constexpr std::size_t stride_of(std::size_t bytes) { return ((bytes + kBytes - 1) / kBytes | 1) * kBytes; }

// What the products of two tiles are of: of `a` rows of 64 bytes, without a sign, times, of `b`, each four rows of
// depth with one beside each other for 16 columns; or of bfloat16 two.
enum class Numbers { kBytes, kPairs };

#if defined(__AMX_TILE__)

// The tiles are there while one of these is, in its thread.
class Configured {
 public:
  Configured() {
    struct alignas(kBytes) {
      std::uint8_t palette = 1, start_row = 0, reserved[14]{};
      std::uint16_t bytes_a_row[16]{};
      std::uint8_t rows[16]{};
    } configuration;
    for (int tile = 0; tile < 8; ++tile) {
      configuration.bytes_a_row[tile] = kBytes;
      configuration.rows[tile] = kRows;
    }
    asm volatile("ldtilecfg %0" ::"m"(configuration));
  }
  ~Configured() { asm volatile("tilerelease"); }
  Configured(const Configured&) = delete;
  Configured& operator=(const Configured&) = delete;
};

// The compiler's own functions for these do not say that they read memory.
template <int Tile>
inline void load(const void* from, std::size_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(Tile) : "memory");
}

template <int Tile>
inline void store(void* to, std::size_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(Tile) : "memory");
}

template <int Tile>
inline void zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(Tile));
}

template <Numbers Kind, int Sum, int A, int B>
inline void multiply() {
  if constexpr (Kind == Numbers::kBytes) {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(A), "i"(B));
  } else {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(A), "i"(B));
  }
}

#else

struct Configured {
  Configured() {}  // so that an object is not unused
};

union Register {
  std::uint8_t bytes[kRows][kBytes];
  std::int8_t codes[kRows][kBytes];
  std::uint16_t halves[kRows][kBytes / 2];
  std::int32_t integers[kRows][kBytes / 4];
  float floats[kRows][kBytes / 4];
};

inline Register& of(int tile) {
  thread_local Register registers[8];
  return registers[tile];
}

template <int Tile>
inline void load(const void* from, std::size_t stride) {
  for (std::size_t row = 0; row < kRows; ++row)
    std::memcpy(of(Tile).bytes[row], static_cast<const std::uint8_t*>(from) + row * stride, kBytes);
}

template <int Tile>
inline void store(void* to, std::size_t stride) {
  for (std::size_t row = 0; row < kRows; ++row)
    std::memcpy(static_cast<std::uint8_t*>(to) + row * stride, of(Tile).bytes[row], kBytes);
}

template <int Tile>
inline void zero() {
  of(Tile) = {};
}

inline float number(std::uint16_t bfloat16) {
  const std::uint32_t bits = std::uint32_t{bfloat16} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <Numbers Kind, int Sum, int A, int B>
inline void multiply() {
  Register& sum = of(Sum);
  const Register &a = of(A), &b = of(B);
  for (std::size_t row = 0; row < kRows; ++row)
    for (std::size_t column = 0; column < kRows; ++column) {
      for (std::size_t k = 0; k < kBytes / 4; ++k) {
        if constexpr (Kind == Numbers::kPairs) {
          for (std::size_t i = 0; i < 2; ++i)
            sum.floats[row][column] += number(a.halves[row][2 * k + i]) * number(b.halves[k][2 * column + i]);
        } else {
          for (std::size_t i = 0; i < 4; ++i)
            sum.integers[row][column] += a.bytes[row][4 * k + i] * b.codes[k][4 * column + i];
        }
      }
    }
}

#endif

// Where tiles lie, in bytes: from one row to the next, from one tile to the next along the depth (of sums: along their
// rows), and across it.
struct Layout {
  std::size_t stride, along, across;
};

// c = a * b, or c + a * b if `accumulate`, of Rows by Columns tiles, over `steps` tiles of depth.
template <Numbers Kind, int Rows, int Columns>
inline void product(const void* a, Layout a_at, const void* b, Layout b_at, std::size_t steps, void* c, Layout c_at,
                    bool accumulate) {
  const auto* left = static_cast<const std::uint8_t*>(a);
  const auto* right = static_cast<const std::uint8_t*>(b);
  auto* sums = static_cast<std::uint8_t*>(c);
  const auto each_sum = [&](const auto& visit) {
    visit.template operator()<0>(sums);
    if constexpr (Columns > 1) visit.template operator()<1>(sums + c_at.along);
    if constexpr (Rows > 1) visit.template operator()<2>(sums + c_at.across);
    if constexpr (Rows > 1 && Columns > 1) visit.template operator()<3>(sums + c_at.across + c_at.along);
  };
  if (accumulate) {
    each_sum([&]<int Sum>(const std::uint8_t* at) { load<Sum>(at, c_at.stride); });
  } else {
    each_sum([&]<int Sum>(const std::uint8_t*) { zero<Sum>(); });
  }
  for (std::size_t step = 0; step < steps; ++step, left += a_at.along, right += b_at.along) {
    load<6>(right, b_at.stride);
    load<4>(left, a_at.stride);
    multiply<Kind, 0, 4, 6>();
    if constexpr (Columns > 1) {
      load<7>(right + b_at.across, b_at.stride);
      multiply<Kind, 1, 4, 7>();
    }
    if constexpr (Rows > 1) {
      load<5>(left + a_at.across, a_at.stride);
      multiply<Kind, 2, 5, 6>();
      if constexpr (Columns > 1) multiply<Kind, 3, 5, 7>();
    }
  }
  each_sum([&]<int Sum>(std::uint8_t* at) { store<Sum>(at, c_at.stride); });
}

// The same of up to two by two tiles.
template <Numbers Kind>
inline void product(std::size_t rows, std::size_t columns, const void* a, Layout a_at, const void* b, Layout b_at,
                    std::size_t steps, void* c, Layout c_at, bool accumulate) {
  const auto of = [&]<int Rows, int Columns>() {
    product<Kind, Rows, Columns>(a, a_at, b, b_at, steps, c, c_at, accumulate);
  };
  if (rows > 1) {
    columns > 1 ? of.template operator()<2, 2>() : of.template operator()<2, 1>();
  } else {
    columns > 1 ? of.template operator()<1, 2>() : of.template operator()<1, 1>();
  }
}

}  // namespace edgekiln::EDGEKILN_ISA::tiles

#endif

// AMX: eight tile registers of 16 rows of 64 bytes, and matrix multiplication of up to 2 x 2 of them.
//
// C tile (16 x 16 float or int32) += A tile * B tile, where a row of A holds 64 bytes of k for one of 16 rows, and a
// row of B holds, for each of 16 columns, 4 bytes of k ("VNNI layout"): four int8 or two bfloat16 values.
//
// Without __AMX_TILE__ the instructions are executed in memory by amx_emulated.h, for tests on other processors.
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBUSD and TDPBF16PS.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/avx512/bf16.h"

#if !defined(EDGEKILN_AMX)
#error "for instruction sets with AMX only"
#endif

namespace edgekiln::EDGEKILN_ISA::tiles {

inline constexpr std::size_t kRows = 16, kBytes = 64, kTileBytes = kRows * kBytes;

// `rows` rounded up to whole tiles: what memory must hold to be loaded as tiles.
inline constexpr std::size_t whole_rows(std::size_t rows) { return (rows + kRows - 1) / kRows * kRows; }

// Stride of rows of `bytes` bytes: whole tiles, and an odd number of cache lines, as rows an even number of lines apart
// would compete for a few sets of the cache.
inline constexpr std::size_t stride_of(std::size_t bytes) { return ((bytes + kBytes - 1) / kBytes | 1) * kBytes; }

enum class Type {
  kInt8,  // A unsigned, B signed, C int32
  kBf16,  // C float
};

}  // namespace edgekiln::EDGEKILN_ISA::tiles

#if !defined(__AMX_TILE__)
#include "kernels/amx/amx_emulated.h"
#endif

namespace edgekiln::EDGEKILN_ISA::tiles {

#if defined(__AMX_TILE__)

// Enables the tile registers of the current thread for its lifetime.
class Configured {
 public:
  Configured() {
    struct alignas(kBytes) {
      std::uint8_t palette = 1, start_row = 0, reserved[14]{};
      std::uint16_t bytes_per_row[16]{};
      std::uint8_t rows[16]{};
    } configuration;
    for (int tile = 0; tile < 8; ++tile) {
      configuration.bytes_per_row[tile] = kBytes;
      configuration.rows[tile] = kRows;
    }
    asm volatile("ldtilecfg %0" ::"m"(configuration));
  }
  ~Configured() { asm volatile("tilerelease"); }
  Configured(const Configured&) = delete;
  Configured& operator=(const Configured&) = delete;
};

// Written as asm because GCC 12's intrinsics do not declare that they read memory.
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

template <Type Operands, int C, int A, int B>
inline void multiply_add() {
  if constexpr (Operands == Type::kInt8) {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  } else {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
}

#endif

// Where the tiles of a matrix lie, in bytes: between rows; between tiles along k (of C: along n); between tiles along m
// or n (of C: along m).
struct Layout {
  std::size_t stride, along, across;
};

// c = a * b, or c += a * b if `accumulate`, of Rows x Columns C tiles over `steps` tiles of k. C stays in tiles 0 to 3.
template <Type Operands, int Rows, int Columns>
inline void matmul(const void* a, Layout a_at, const void* b, Layout b_at, std::size_t steps, void* c, Layout c_at,
                   bool accumulate) {
  const auto* left = static_cast<const std::uint8_t*>(a);
  const auto* right = static_cast<const std::uint8_t*>(b);
  auto* sums = static_cast<std::uint8_t*>(c);
  const auto for_each_c = [&](const auto& visit) {
    visit.template operator()<0>(sums);
    if constexpr (Columns > 1) visit.template operator()<1>(sums + c_at.along);
    if constexpr (Rows > 1) visit.template operator()<2>(sums + c_at.across);
    if constexpr (Rows > 1 && Columns > 1) visit.template operator()<3>(sums + c_at.across + c_at.along);
  };
  if (accumulate) {
    for_each_c([&]<int C>(const std::uint8_t* at) { load<C>(at, c_at.stride); });
  } else {
    for_each_c([&]<int C>(const std::uint8_t*) { zero<C>(); });
  }
  for (std::size_t step = 0; step < steps; ++step, left += a_at.along, right += b_at.along) {
    load<6>(right, b_at.stride);
    load<4>(left, a_at.stride);
    multiply_add<Operands, 0, 4, 6>();
    if constexpr (Columns > 1) {
      load<7>(right + b_at.across, b_at.stride);
      multiply_add<Operands, 1, 4, 7>();
    }
    if constexpr (Rows > 1) {
      load<5>(left + a_at.across, a_at.stride);
      multiply_add<Operands, 2, 5, 6>();
      if constexpr (Columns > 1) multiply_add<Operands, 3, 5, 7>();
    }
  }
  for_each_c([&]<int C>(std::uint8_t* at) { store<C>(at, c_at.stride); });
}

// The same for min(rows, 2) x min(columns, 2) C tiles.
template <Type Operands>
inline void matmul(std::size_t rows, std::size_t columns, const void* a, Layout a_at, const void* b, Layout b_at,
                   std::size_t steps, void* c, Layout c_at, bool accumulate) {
  const auto of = [&]<int Rows, int Columns>() {
    matmul<Operands, Rows, Columns>(a, a_at, b, b_at, steps, c, c_at, accumulate);
  };
  if (rows > 1) {
    columns > 1 ? of.template operator()<2, 2>() : of.template operator()<2, 1>();
  } else {
    columns > 1 ? of.template operator()<1, 2>() : of.template operator()<1, 1>();
  }
}

}  // namespace edgekiln::EDGEKILN_ISA::tiles

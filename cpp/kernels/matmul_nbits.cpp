// Few rows: the activations are quantized to int8 in blocks of 32, and weights are read once at the speed of memory.
// Many rows: panels of the weight become float in the first-level cache and are multiplied there.
#include "kernels/matmul_nbits.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "kernels/block_dot.h"
#include "kernels/float_panels.h"
#include "kernels/transpose.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kTaskBytes = 1 << 16;  // of weights a task of few rows reads, at least
constexpr std::size_t kPadding = 64;         // bytes that a vector may reach past the end

std::size_t rounded_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

// The zero points of kLanes groups from `group`, a multiple of kLanes, on.
template <int Bits>
Floats zero_points_of(const std::uint8_t* line, std::size_t group) {
  if constexpr (Bits == 8) {
    using Bytes = std::uint8_t __attribute__((vector_size(kLanes)));
    Bytes codes;
    std::memcpy(&codes, line + group, sizeof codes);
    return __builtin_convertvector(codes, Floats);
  }
  // Eight nibbles of one word are shifted into eight lanes.
  using Words = std::uint32_t __attribute__((vector_size(kLanes * sizeof(std::uint32_t))));
  std::uint32_t words[2] = {};
  std::memcpy(words, line + group / 2, kLanes / 2);
  return [&]<int... Lane>(std::integer_sequence<int, Lane...>) {
    const Words low = words[0] - Words{}, high = words[1] - Words{};
    const Words word = __builtin_shufflevector(low, high, (Lane < 8 ? Lane : kLanes + Lane)...);
    return __builtin_convertvector((word >> Words{std::uint32_t{Lane % 8 * 4}...}) & 15, Floats);
  }(std::make_integer_sequence<int, kLanes>{});
}

template <typename Scale>
const Scale* scales_of(const MatMulNBitsCall& call) {
  if constexpr (std::is_same_v<Scale, Half>) {
    return call.half_scales;
  } else {
    return call.scales;
  }
}

// Sum over the groups of (scale * zero point - offset) * sum of the activations, spread over the lanes.
//
// The offset's part takes the activations as they came: rounding them is the price of multiplying codes alone.
template <int Bits, typename Scale>
Floats zero_point_part(const MatMulNBitsCall& call, std::size_t column, const QuantizedRow& a) {
  constexpr float middle = 1 << (Bits - 1);
  constexpr bool half = std::is_same_v<Scale, Half>;
  const float* sums = a.sums;
  const std::size_t groups = call.groups();
  const Scale* scales = scales_of<Scale>(call) + column * groups;
  Floats total{};
  // Past a column's last group come those of the next, and sums of zero; only the last columns may not read on.
  const bool may_read_on = call.zero_points ? (call.columns - column - 1) * call.zero_point_bytes() >= kLanes
                                            : half || (call.columns - column - 1) * groups >= kLanes;
  const std::size_t whole = may_read_on ? groups : groups / kLanes * kLanes;
  std::size_t group = 0;
  float rest = 0.0f;
  if (call.zero_points) {
    const std::uint8_t* line = call.zero_points + column * call.zero_point_bytes();
    for (; group < whole; group += kLanes)
      total += load(scales + group) * load(sums + group) * zero_points_of<Bits>(line, group);
    for (; group < groups; ++group)
      rest += number(scales[group]) * sums[group] * static_cast<float>(zero_point_of(line, Bits, group));
    return total + Floats{rest};
  }
  if (call.offsets) {
    const Scale* stored;
    if constexpr (half) {
      stored = call.half_minima + column * groups;
    } else {
      stored = call.offsets + column * groups;
    }
    const auto part = [](auto scale, auto stored, auto sum, auto exact_sum) {
      const auto from_zero = scale * middle;
      return from_zero * sum - (half ? stored + from_zero : stored) * exact_sum;
    };
    for (; group < whole; group += kLanes)
      total += part(load(scales + group), load(stored + group), load(sums + group), load(a.exact_sums + group));
    for (; group < groups; ++group)
      rest += part(number(scales[group]), number(stored[group]), sums[group], a.exact_sums[group]);
    return total + Floats{rest};
  }
  for (; group < whole; group += kLanes) total += load(scales + group) * load(sums + group);
  for (; group < groups; ++group) rest += number(scales[group]) * sums[group];
  return (total + Floats{rest}) * middle;
}

// Where a quantized row's arrays start in scratch memory, in floats.
struct RowLayout {
  std::size_t odd, scales, sums, exact_sums, size;

  explicit RowLayout(const MatMulNBitsCall& call, std::size_t sums_a_block) {
    const std::size_t plane = (call.bits == 4 ? call.depth / 2 : call.depth) + kPadding;
    odd = rounded_up(plane, sizeof(float)) / sizeof(float);
    scales = call.bits == 4 ? 2 * odd : odd;
    sums = scales + call.depth / kBlock * sums_a_block + kLanes;
    exact_sums = sums + call.groups() + kLanes;
    size = exact_sums + (call.offsets ? call.groups() + kLanes : 0);
  }
};

template <int Bits>
QuantizedRow quantize(const MatMulNBitsCall& call, const float* a, float* memory) {
  const RowLayout layout(call, kSumsABlock<Bits>);
  std::fill_n(memory, layout.size, 0.0f);
  auto* codes = reinterpret_cast<std::int8_t*>(memory);
  auto* odd = reinterpret_cast<std::int8_t*>(memory + layout.odd);
  for (std::size_t block = 0; block < call.depth / kBlock; ++block) {
    const float* x = a + block * kBlock;
    Floats most{};
    for (std::size_t i = 0; i < kBlock; i += kLanes) most = larger(most, larger(load(x + i), -load(x + i)));
    const float largest = largest_lane(most);
    if (largest == 0.0f) continue;
    if (call.offsets) {
      Floats total{};
      for (std::size_t i = 0; i < kBlock; i += kLanes) total += load(x + i);
      memory[layout.exact_sums + block * kBlock / call.group] += sum_of_lanes(total);
    }
    const float scale = largest / 127.0f, inverse = 127.0f / largest;
    std::int32_t sum = 0;
    std::int8_t block_codes[kBlock];
    for (std::size_t i = 0; i < kBlock; ++i) {
      // Rounds to the nearest whole number, as adding 1.5 * 2^23 does; the bits of the sum hold it.
      const float shifted = x[i] * inverse + 12582912.0f;
      std::int32_t bits;
      std::memcpy(&bits, &shifted, sizeof bits);
      const std::int32_t code = bits - 0x4b400000;
      block_codes[i] = static_cast<std::int8_t>(code);
      sum += code;
    }
    if constexpr (Bits == 4) {
      for (std::size_t i = 0; i < kBlock / 2; ++i) {
        codes[block * kBlock / 2 + i] = block_codes[2 * i];
        odd[block * kBlock / 2 + i] = block_codes[2 * i + 1];
      }
    } else {
      std::copy_n(block_codes, kBlock, codes + block * kBlock);
    }
    std::fill_n(memory + layout.scales + block * kSumsABlock<Bits>, kSumsABlock<Bits>, scale);
    memory[layout.sums + block * kBlock / call.group] += scale * static_cast<float>(sum);
  }
  return {codes, odd, memory + layout.scales, memory + layout.sums, memory + layout.exact_sums};
}

struct FewRows {
  const MatMulNBitsCall& call;
  QuantizedRow rows[kQuantizedRows];
  std::size_t columns_a_task;
};

template <int Bits, typename Scale>
void few_rows_task(void* context, std::size_t index) {
  const FewRows& few = *static_cast<const FewRows*>(context);
  const MatMulNBitsCall& call = few.call;
  const std::size_t first = index * few.columns_a_task, last = std::min(first + few.columns_a_task, call.columns);
  const std::size_t blocks = call.depth / kBlock;
  const unsigned group_shift = std::countr_zero(call.group / kBlock);
  for (std::size_t column = first; column < last; column += kLanes) {
    const std::size_t count = std::min<std::size_t>(kLanes, last - column);
    for (std::size_t row = 0; row < call.rows; ++row) {
      const QuantizedRow& a = few.rows[row];
      Floats products[kLanes] = {};
      for (std::size_t i = 0; i < count; ++i) {
        const std::uint8_t* codes = call.codes + (column + i) * call.row_bytes();
        const Scale* scales = scales_of<Scale>(call) + (column + i) * call.groups();
        const bool at_end = (call.columns - column - i - 1) * call.groups() < kPadding;
        products[i] = block_dot<Bits>(codes, scales, a, blocks, group_shift, at_end) -
                      zero_point_part<Bits, Scale>(call, column + i, a);
      }
      const Floats result = sums(products);
      std::memcpy(call.out + row * call.columns + column, &result, count * sizeof(float));
    }
  }
}

template <int Bits>
void run_few_rows(const MatMulNBitsCall& call, const Parallel& parallel, Scratch& scratch) {
  const std::size_t size = RowLayout(call, kSumsABlock<Bits>).size;
  float* memory = at_least(scratch, size * call.rows);
  FewRows few{call, {}, rounded_up(kTaskBytes / call.row_bytes() + 1, kLanes)};
  for (std::size_t row = 0; row < call.rows; ++row)
    few.rows[row] = quantize<Bits>(call, call.a + row * call.depth, memory + row * size);
  auto* task = few_rows_task<Bits, float>;
  if constexpr (kReadsHalf) {
    if (call.half_scales) task = few_rows_task<Bits, Half>;
  }
  parallel.run(parallel.self, task, (call.columns + few.columns_a_task - 1) / few.columns_a_task, &few);
}

using HalfBlock = float __attribute__((vector_size(kBlock / 2 * sizeof(float))));

// One half of a block's codes, in order.
template <int Bits>
HalfBlock half_block(const std::uint8_t* codes, std::size_t half) {
  using Bytes = std::uint8_t __attribute__((vector_size(kBlock / 2)));
  Bytes bytes;
  if constexpr (Bits == 8) {
    std::memcpy(&bytes, codes + half * kBlock / 2, sizeof bytes);
    return __builtin_convertvector(bytes, HalfBlock);
  }
  std::memcpy(&bytes, codes, sizeof bytes);
  const Bytes low = bytes & 15, high = bytes >> 4;
  const Bytes ordered =
      half == 0 ? __builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
                : __builtin_shufflevector(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return __builtin_convertvector(ordered, HalfBlock);
}

// to[depth, kFloatColumns] = the float weights of `columns` columns, from row `start` of depth on.
template <int Bits>
void dequantize_panel(const MatMulNBitsCall& call, std::size_t column, std::size_t columns, std::size_t start,
                      std::size_t depth, float* to) {
  float lines[kLanes * kBlock];
  for (std::size_t top = 0; top < columns; top += kLanes) {
    for (std::size_t k = 0; k < depth; k += kBlock) {
      const std::size_t group = (start + k) / call.group, count = std::min<std::size_t>(kLanes, columns - top);
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t line = column + top + i;
        const std::uint8_t* codes = call.codes + line * call.row_bytes() + (start + k) * Bits / 8;
        const float zero =
            !call.zero_points
                ? (Bits == 4 ? 8.0f : 128.0f)
                : static_cast<float>(zero_point_of(call.zero_points + line * call.zero_point_bytes(), Bits, group));
        const float scale = call.scales[line * call.groups() + group];
        const float offset = call.offsets ? call.offsets[line * call.groups() + group] : 0.0f;
        float* weights = lines + i * kBlock;
        for (std::size_t half = 0; half < 2; ++half) {
          const HalfBlock values = (half_block<Bits>(codes, half) - zero) * scale + offset;
          std::memcpy(weights + half * kBlock / 2, &values, sizeof values);
        }
      }
      if (count < kLanes) std::fill(lines + count * kBlock, lines + kLanes * kBlock, 0.0f);
      transpose(lines, kLanes, kBlock, to + k * kFloatColumns + top, kFloatColumns);
    }
  }
}

template <int Bits>
void many_rows_task(void* context, std::size_t index) {
  const MatMulNBitsCall& call = *static_cast<const MatMulNBitsCall*>(context);
  multiply_float_panel(call.a, call.rows, call.depth, call.columns, index * kFloatColumns, call.out,
                       [&](std::size_t first, std::size_t count, std::size_t k, std::size_t depth, float* to) {
                         dequantize_panel<Bits>(call, first, count, k, depth, to);
                       });
}

template <int Bits>
void run_many_rows(MatMulNBitsCall call, const Parallel& parallel) {
  parallel.run(parallel.self, many_rows_task<Bits>, (call.columns + kFloatColumns - 1) / kFloatColumns, &call);
}

template <int Bits>
void run(const MatMulNBitsCall& call, const Parallel& parallel, Scratch& scratch) {
  if (call.rows <= kQuantizedRows) {
    run_few_rows<Bits>(call, parallel, scratch);
  } else {
    run_many_rows<Bits>(call, parallel);
  }
}

}  // namespace

void matmul_n_bits(const MatMulNBitsCall& call, const Parallel& parallel, Scratch& scratch) {
  (call.bits == 4 ? run<4> : run<8>)(call, parallel, scratch);
}

}  // namespace edgekiln::EDGEKILN_ISA

#include "kernels/gated_rms_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/softplus.h"
#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

void gate_row(const GatedRmsNormArgs& args, std::size_t row) {
  const float *x = args.x + row * args.width,
              *gate = args.gate + row * (args.gate_stride ? args.gate_stride : args.width);
  float* const out = args.out + row * args.width;
  const std::size_t whole = args.width / kLanes * kLanes, rest = args.width - whole;
  for (std::size_t i = 0; i < whole; i += kLanes) store(out + i, load(x + i) * silu(load(gate + i)));
  if (!rest) return;
  float last[2][kLanes] = {};
  std::copy_n(x + whole, rest, last[0]);
  std::copy_n(gate + whole, rest, last[1]);
  store(last[0], load(last[0]) * silu(load(last[1])));
  std::copy_n(last[0], rest, out + whole);
}

void normalize_row(const GatedRmsNormArgs& args, std::size_t row) {
  const std::size_t width = args.width, whole = width / kStripes * kStripes, rest = width - whole;
  const float *x = args.x + row * width, *gate = args.gate + row * (args.gate_stride ? args.gate_stride : width);
  const float* const gamma = args.gamma;
  float* const out = args.out + row * width;
  Floats squares[kStripeParts] = {};
  const auto add = [&](const float* x, const float* gate, float* to) {
    for (int part = 0; part < kStripeParts; ++part) {
      const int i = part * kLanes;
      const Floats value = args.norm_before_gate ? load(x + i) : load(x + i) * silu(load(gate + i));
      squares[part] = added(squares[part], value, value);
      store(to + i, value);
    }
  };
  // `out`, which may be the input, holds the values until they are scaled.
  for (std::size_t i = 0; i < whole; i += kStripes) add(x + i, gate + i, out + i);
  float last[3][kStripes] = {};  // the rest of the values, of the gate and of gamma
  if (rest) {
    std::copy_n(x + whole, rest, last[0]);
    std::copy_n(gate + whole, rest, last[1]);
    std::copy_n(gamma + whole, rest, last[2]);
    add(last[0], last[1], last[0]);
  }
  const float mean = sum_of_stripes(squares) / static_cast<float>(width);
  const float inverse = 1.0f / std::sqrt(mean + args.epsilon);
  const auto scale = [&](const float* value, const float* gate, const float* gamma, float* to) {
    const Floats normed = load(value) * inverse * load(gamma);
    store(to, args.norm_before_gate ? normed * silu(load(gate)) : normed);
  };
  for (std::size_t i = 0; i < whole; i += kLanes) scale(out + i, gate + i, gamma + i, out + i);
  if (!rest) return;
  for (int i = 0; i < kStripes; i += kLanes) scale(last[0] + i, last[1] + i, last[2] + i, last[0] + i);
  std::copy_n(last[0], rest, out + whole);
}

}  // namespace

void gated_rms_norm(const GatedRmsNormArgs& args, const Parallel& parallel) {
  for_each_row(args.rows, args.width, parallel,
               [&](std::size_t row) { args.gamma ? normalize_row(args, row) : gate_row(args, row); });
}

}  // namespace edgekiln::EDGEKILN_ISA

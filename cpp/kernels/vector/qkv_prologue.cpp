#include "kernels/qkv_prologue.h"

#include <algorithm>
#include <cmath>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

void add(const float* from, const float* bias, float* to, std::size_t width) {
  std::size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(to + i, load(from + i) + load(bias + i));
  for (; i < width; ++i) to[i] = from[i] + bias[i];
}

// to = from / sqrt(mean(from^2) + epsilon) * gamma
void norm(const float* from, const float* gamma, float epsilon, float* to, std::size_t width) {
  const std::size_t whole = width / kLanes * kLanes;
  Floats squares{};
  float rest = 0.0f;
  for (std::size_t i = 0; i < whole; i += kLanes) squares += load(from + i) * load(from + i);
  for (std::size_t i = whole; i < width; ++i) rest += from[i] * from[i];
  const float mean = (sum_of_lanes(squares) + rest) / static_cast<float>(width);
  const float inverse = 1.0f / std::sqrt(mean + epsilon);
  for (std::size_t i = 0; i < whole; i += kLanes) store(to + i, load(from + i) * inverse * load(gamma + i));
  for (std::size_t i = whole; i < width; ++i) to[i] = from[i] * inverse * gamma[i];
}

void prepare_row(const QkvPrologueArgs& call, const float* from, float* to) {
  const std::size_t width = call.width(), dim = call.head_dim;
  if (call.bias) {
    add(from, call.bias, to, width);
    from = to;
  }
  if (!call.gammas[0]) return;
  const std::size_t normed = call.heads + call.kv_heads;
  for (std::size_t head = 0; head < normed; ++head)
    norm(from + head * dim, call.gammas[head >= call.heads], call.epsilon, to + head * dim, dim);
  if (from != to) std::copy(from + normed * dim, from + width, to + normed * dim);
}

}  // namespace

void qkv_prologue(const QkvPrologueArgs& call, const Parallel& parallel) {
  const std::size_t width = call.width();
  for_each_row(call.rows, width, parallel,
               [&](std::size_t row) { prepare_row(call, call.from + row * width, call.to + row * width); });
}

}  // namespace edgekiln::EDGEKILN_ISA

#include "gated_silu.h"

#include <algorithm>
#include <cmath>

#include "vector.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kTaskNumbers = 1 << 14;  // a task computes, at least

struct Rows {
  const GatedSiluCall& call;
  std::size_t a_task;
};

void gate_row(const float* gate, const float* up, float* out, std::size_t width) {
  std::size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Floats x = load(gate + i);
    // e^-|x| cannot overflow.
    const Floats e = exp_of_negative(x < 0.0f ? x : -x);
    store(out + i, x * load(up + i) * (x < 0.0f ? e : broadcast(1.0f)) / (1.0f + e));
  }
  for (; i < width; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

void rows_task(void* context, std::size_t index) {
  const Rows& rows = *static_cast<const Rows*>(context);
  const GatedSiluCall& call = rows.call;
  const std::size_t first = index * rows.a_task, last = std::min(first + rows.a_task, call.rows);
  for (std::size_t row = first; row < last; ++row) {
    const float* gate = call.a + row * 2 * call.width;
    gate_row(gate, gate + call.width, call.out + row * call.width, call.width);
  }
}

}  // namespace

void gated_silu(const GatedSiluCall& call, const Parallel& parallel) {
  Rows rows{call, kTaskNumbers / call.width + 1};
  parallel.run(parallel.self, rows_task, (call.rows + rows.a_task - 1) / rows.a_task, &rows);
}

}  // namespace edgekiln::EDGEKILN_ISA

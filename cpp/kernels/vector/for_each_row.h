// Parallel loop over matrix rows, in tasks large enough to be worth dispatching. For every instruction set.
#pragma once

#include <algorithm>

#include "kernels/common/parallel.h"

namespace edgekiln::EDGEKILN_ISA {

// Calls compute(row) for each of `rows` rows, or other parts, of `width` values.
template <typename Compute>
void for_each_row(std::size_t rows, std::size_t width, const Parallel& parallel, const Compute& compute) {
  constexpr std::size_t kTaskValues = 1 << 14;
  struct Loop {
    const Compute& compute;
    std::size_t rows, rows_per_task;
  };
  Loop loop{compute, rows, kTaskValues / width + 1};
  const auto task = [](void* context, std::size_t index) {
    const Loop& loop = *static_cast<const Loop*>(context);
    const std::size_t first = index * loop.rows_per_task, last = std::min(first + loop.rows_per_task, loop.rows);
    for (std::size_t row = first; row < last; ++row) loop.compute(row);
  };
  parallel.run(parallel.self, task, (rows + loop.rows_per_task - 1) / loop.rows_per_task, &loop);
}

}  // namespace edgekiln::EDGEKILN_ISA

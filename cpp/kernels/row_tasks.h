// Work that is done row by row, for kernels whose rows are short.
#pragma once

#include <algorithm>

#include "kernels/parallel.h"

namespace edgekiln::EDGEKILN_ISA {

// compute(row) for each of `rows` rows of `width` numbers, in tasks of so many numbers at least that they are worth
// handing out.
template <typename Compute>
void for_each_row(std::size_t rows, std::size_t width, const Parallel& parallel, const Compute& compute) {
  constexpr std::size_t kTaskNumbers = 1 << 14;
  struct Rows {
    const Compute& compute;
    std::size_t count, a_task;
  };
  Rows all{compute, rows, kTaskNumbers / width + 1};
  const auto task = [](void* context, std::size_t index) {
    const Rows& all = *static_cast<const Rows*>(context);
    const std::size_t first = index * all.a_task, last = std::min(first + all.a_task, all.count);
    for (std::size_t row = first; row < last; ++row) all.compute(row);
  };
  parallel.run(parallel.self, task, (rows + all.a_task - 1) / all.a_task, &all);
}

}  // namespace edgekiln::EDGEKILN_ISA

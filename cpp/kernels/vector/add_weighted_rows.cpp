#include "kernels/add_weighted_rows.h"

#include <algorithm>

#include "kernels/isa_kernels.h"
#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kColumns = 512;  // of a task

struct Rows {
  const WeightedRow* rows;
  std::size_t count, width;
};

void columns_task(void* context, std::size_t index) {
  const Rows& args = *static_cast<const Rows*>(context);
  const std::size_t first = index * kColumns, last = std::min(first + kColumns, args.width);
  for (std::size_t i = 0; i < args.count; ++i) {
    const auto& [from, weight, to] = args.rows[i];
    std::size_t column = first;
    for (; column + kLanes <= last; column += kLanes)
      store(to + column, added(load(to + column), load(from + column), broadcast(weight)));
    for (; column < last; ++column) to[column] = added(to[column], from[column], weight);
  }
}

}  // namespace

void add_weighted_rows(const WeightedRow* rows, std::size_t count, std::size_t width, const Parallel& parallel) {
  Rows args{rows, count, width};
  parallel.run(parallel.self, columns_task, (width + kColumns - 1) / kColumns, &args);
}

}  // namespace edgekiln::EDGEKILN_ISA

// What becomes of packed projections before they are attended: a bias, or norms of queries and keys head by head.
#pragma once

#include <cstddef>

#include "kernels/common/parallel.h"

namespace edgekiln {

// Rows of `heads` queries, then `kv_heads` keys, then as many values, of head_dim floats each.
struct QkvPrologueArgs {
  std::size_t rows, heads, kv_heads, head_dim;
  const float* from;
  float* to;               // may be `from`
  const float* bias;       // of a row; null for none
  const float* gammas[2];  // [head_dim], of queries and of keys; null for no norm
  float epsilon;           // of the norms

  std::size_t width() const { return (heads + 2 * kv_heads) * head_dim; }
};

using QkvPrologueKernel = void (*)(const QkvPrologueArgs&, const Parallel&);

}  // namespace edgekiln

// Which threads run an op of m tokens: a GEMV finishes before ONNX Runtime's pool wakes up, so it runs on a thread team
// that stays awake between parallel loops; a GEMM takes the pool.
#pragma once

#include "kernels/common/thread_team.h"
#include "kernels/matmul_nbits.h"

namespace edgekiln {

// Calls region(const Parallel&) once, with the threads for `m` tokens. `pool` is the caller's.
template <typename Region>
void run_region(std::size_t m, const Parallel& pool, const Region& region) {
  if (m <= kGemvMaxM) return ThreadTeam<Region>::run(pool, region);
  region(pool);
}

}  // namespace edgekiln

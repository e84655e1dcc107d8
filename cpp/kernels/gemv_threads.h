// How products of few rows get threads: they are over sooner than a parallel loop of the caller's has begun.
#pragma once

#include "kernels/matmul_nbits.h"
#include "kernels/thread_team.h"

namespace edgekiln {

// Runs script(const Parallel&) in a team if `rows` are few.
template <typename Script>
void run_rows(std::size_t rows, const Parallel& threads, const Script& script) {
  if (rows <= kQuantizedRows) return Team<Script>::run(threads, script);
  script(threads);
}

}  // namespace edgekiln

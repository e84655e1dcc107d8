// The kernel tables that the tests run: those of this processor and, where it runs the rest of them, AMX emulated in
// memory.
#pragma once

#include <string_view>
#include <vector>

#include "kernels/instruction_sets/instruction_set.h"

#if defined(EDGEKILN_AMX_EMULATED)
namespace edgekiln::amx_emulated {
extern const InstructionSet instruction_set;
}
#endif

// Whether the q4 prefill GEMM of a table multiplies in bfloat16.
inline bool q4_prefill_in_bf16(const edgekiln::KernelTable& kernels) {
  const std::string_view name = kernels.instruction_set;
  return name == "amx" || name == "amx_emulated";
}

inline std::vector<edgekiln::KernelTable> tested_kernels() {
  std::vector<edgekiln::KernelTable> tables = edgekiln::supported_kernels();
#if defined(EDGEKILN_AMX_EMULATED)
  if (edgekiln::amx_emulated::instruction_set.supported())
    tables.push_back(edgekiln::amx_emulated::instruction_set.kernels);
#endif
  return tables;
}

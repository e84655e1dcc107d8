// Picks the instruction sets that this processor runs, at run time.
//
// EDGEKILN_INSTRUCTION_SETS, from kernels/CMakeLists.txt, is FOR_EACH(amx) FOR_EACH(avx512bf16) ..., fastest first.
#include "kernels/instruction_sets/instruction_set.h"

#define FOR_EACH(isa)                          \
  namespace edgekiln::isa {                    \
  extern const InstructionSet instruction_set; \
  }
EDGEKILN_INSTRUCTION_SETS
#undef FOR_EACH

namespace edgekiln {

const std::vector<KernelTable>& supported_kernels() {
  static const std::vector<KernelTable> supported = [] {
    std::vector<KernelTable> tables;
#define FOR_EACH(isa) \
  if (isa::instruction_set.supported()) tables.push_back(isa::instruction_set.kernels);
    EDGEKILN_INSTRUCTION_SETS
#undef FOR_EACH
    return tables;
  }();
  return supported;
}

}  // namespace edgekiln

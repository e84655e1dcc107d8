// Picks the instruction sets that this processor runs, at run time.
//
// EDGEKILN_INSTRUCTION_SETS, from kernels/CMakeLists.txt, is FOR_EACH(amx) FOR_EACH(avx512bf16) ..., fastest first.
#include <cstdlib>
#include <string_view>

#include "kernels/instruction_sets/instruction_set.h"

#define FOR_EACH(isa)                          \
  namespace edgekiln::isa {                    \
  extern const InstructionSet instruction_set; \
  }
EDGEKILN_INSTRUCTION_SETS
#undef FOR_EACH

namespace edgekiln {

namespace {

KernelSelection select_kernels() {
  const std::vector<KernelTable>& supported = supported_kernels();
  const char* const variable = std::getenv("EDGEKILN_ISA");
  const std::string_view wanted = variable ? variable : "";
  if (wanted.empty()) return {&supported.front(), ""};
  if (wanted == kOnnxRuntimeKernels) return {nullptr, ""};
  std::string names;
  for (const KernelTable& table : supported) {
    if (wanted == table.instruction_set) return {&table, ""};
    names.append(table.instruction_set).append(", ");
  }
  names.resize(names.size() - 2);
  return {nullptr, "EDGEKILN_ISA must be " + names + " or onnxruntime on this processor, got " + std::string(wanted)};
}

}  // namespace

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

const KernelSelection& kernel_selection() {
  static const KernelSelection selection = select_kernels();
  return selection;
}

}  // namespace edgekiln

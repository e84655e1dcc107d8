// One instruction set: its kernels, and whether this processor has it.
//
// Files of this folder are compiled for the baseline processor, as supported() runs on every one.
#pragma once

#include "kernels/kernel_table.h"

namespace edgekiln {

struct InstructionSet {
  bool (*supported)();
  KernelTable kernels;
};

}  // namespace edgekiln

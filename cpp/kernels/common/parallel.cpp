#include "kernels/common/parallel.h"

#include "kernels/common/aligned.h"

namespace edgekiln {

float* at_least(Scratch& scratch, std::size_t size) {
  size += kAlignment / sizeof(float);
  if (scratch.size() < size) {
    scratch = Scratch();
    scratch.resize(size);
  }
  return aligned(scratch.data());
}

}  // namespace edgekiln

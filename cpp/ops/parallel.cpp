#include "parallel.h"

namespace edgekiln {

float* at_least(Scratch& scratch, std::size_t size) {
  if (scratch.size() < size) {
    scratch = Scratch();
    scratch.resize(size);
  }
  return scratch.data();
}

}  // namespace edgekiln

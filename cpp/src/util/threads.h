// How many threads to compute with.
#pragma once

namespace edgekiln {

// Physical cores this process may run on; a second thread on one core slows matrix products down.
int default_threads();

}  // namespace edgekiln

// The default number of compute threads.
#pragma once

namespace edgekiln {

// Physical cores available to the process: hyper-threads slow matrix multiplications down.
int default_threads();

}  // namespace edgekiln

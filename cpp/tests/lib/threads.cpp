// Prints what util/threads.h finds, for the Python tests. Arguments: root directories. stdout: for each, a line with
// the CPU quota, 0 without one, and the default number of threads.
#include "util/threads.h"

#include <cstdio>

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i)
    std::printf("%.17g %d\n", edgekiln::cpu_quota(arguments[i]).value_or(0), edgekiln::default_threads(arguments[i]));
}

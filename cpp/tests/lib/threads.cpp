// Prints what util/threads.h finds, for the Python tests. Arguments: pairs of a root directory and a comma-separated
// list of logical processors, "" for those that this process may use. stdout: for each pair, a line with the CPU quota,
// 0 without one, the default number of threads, and the performance and efficiency cores of the processors.
#include "util/threads.h"

#include <cstdio>
#include <set>
#include <sstream>
#include <string>

#include "util/processor_cores.h"

int main(int count, char** arguments) {
  for (int i = 1; i + 1 < count; i += 2) {
    std::set<int> processors;
    std::istringstream list(arguments[i + 1]);
    for (std::string number; std::getline(list, number, ',');) processors.insert(std::stoi(number));
    if (processors.empty()) processors = edgekiln::usable_processors();
    const edgekiln::PhysicalCores cores = edgekiln::physical_cores(processors, arguments[i]);
    std::printf("%.17g %d %d %d\n", edgekiln::cpu_quota(arguments[i]).value_or(0),
                edgekiln::default_threads(arguments[i], processors), cores.performance, cores.efficiency);
  }
}

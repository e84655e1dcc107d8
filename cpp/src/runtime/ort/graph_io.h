// Checks a graph against engine.json, so that a name or size that does not fit is an error at load and not in a run.
#pragma once

#include <filesystem>

#include "runtime/ort/library.h"

namespace edgekiln {

// Check that the graph `generate` at `path` has the inputs and outputs that engine.json names, and its sizes. An error
// of Code::kEngine names the first field that does not fit.
[[nodiscard]] Result<void> check_graph(const Ort::Session& session, const std::filesystem::path& path,
                                       const Manifest& manifest);

}  // namespace edgekiln

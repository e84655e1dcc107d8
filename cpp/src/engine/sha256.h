// SHA-256 of files.
#pragma once

#include <filesystem>
#include <string>

#include "util/result.h"

namespace edgekiln {

// Hex digest of a file's bytes; an error of Code::kEngine if it cannot be read.
Result<std::string> sha256(const std::filesystem::path& path);

}  // namespace edgekiln

// An engine's files: read whole, and named where they are damaged.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "util/result.h"

namespace edgekiln {

// What a file holds, or an error of Code::kEngine that ends in `fix`.
Result<std::string> read_file(const std::filesystem::path& path, std::string_view fix);

// The error for a file whose contents are not as they should be.
Error damaged_file(std::string_view path, std::string_view reason);

}  // namespace edgekiln

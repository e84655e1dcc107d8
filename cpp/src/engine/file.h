// Reading whole files of an engine directory.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "util/result.h"

namespace edgekiln {

// The contents of a file, or an error of Code::kEngine that ends in `fix`.
Result<std::string> read_file(const std::filesystem::path& path, std::string_view fix);

}  // namespace edgekiln

#include "engine/file.h"

#include <fstream>
#include <iterator>

#include "util/str_cat.h"

namespace edgekiln {

Result<std::string> read_file(const std::filesystem::path& path, std::string_view fix) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) return Error{Code::kEngine, sentence(path.string(), " cannot be read: ", fix)};
  return text;
}

Error damaged_file(std::string_view path, std::string_view reason) {
  return {Code::kEngine, sentence(path, " is damaged: ", reason, ", build the engine again")};
}

}  // namespace edgekiln

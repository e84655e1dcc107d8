#include "engine/file.h"

#include <fstream>
#include <iterator>

namespace edgekiln {

Result<std::string> read_file(const std::filesystem::path& path, std::string_view fix) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) return fail(Code::kEngine, path.string(), " cannot be read: ", fix);
  return text;
}

}  // namespace edgekiln

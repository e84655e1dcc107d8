#include "api/text_model.h"

#include "sentence.h"

namespace edgekiln {

Result<std::unique_ptr<TextModel>> load_text_model(const std::filesystem::path& directory, const Manifest&) {
  return Error{Code::kUnsupported, sentence(directory.string(), " needs a tokenizer, this library has none: give ids")};
}

}  // namespace edgekiln

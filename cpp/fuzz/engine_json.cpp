// Any bytes as engine.json: they are read or refused with a sentence.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const void* bytes = data;
  const auto result = edgekiln::parse_manifest({static_cast<const char*>(bytes), size}, "engine.json");
  if (result.ok() ? result.value().architecture.layers < 1 : result.error().message.empty()) std::abort();
  return 0;
}

// Arbitrary bytes as engine.json: they are parsed or refused with a message.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const void* bytes = data;
  const auto result = edgekiln::parse_manifest({static_cast<const char*>(bytes), size}, "engine.json");
  if (result.has_value() ? result.value().architecture.layers < 1 : result.error().message.empty()) std::abort();
  return 0;
}

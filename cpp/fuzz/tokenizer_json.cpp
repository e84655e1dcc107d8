// Arbitrary bytes as tokenizer.json: they are refused with a message, or encode and decode without a crash.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "text/stream.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace edgekiln::text;
  const void* bytes = data;
  const auto tokenizer = Tokenizer::parse({static_cast<const char*>(bytes), size}, "tokenizer.json");
  if (!tokenizer) {
    if (tokenizer.error().message.empty()) std::abort();
    return 0;
  }
  constexpr std::string_view kText = " ab  a\xCC\x81\xE2\x96\x81 12\n<s>'s \xF0\x9F\x91\x8D\xFF b\t";
  const auto ids = tokenizer.value().encode(kText, true);
  if (!ids) return 0;
  MarkedText prompt;
  prompt.append("<s>", kOwn);
  prompt.append(kText, kGiven);
  static_cast<void>(tokenizer.value().encode(prompt));
  StreamingDecoder stream(tokenizer.value());
  std::string text;
  for (const std::int64_t id : ids.value()) text += stream.push(id);
  text += stream.flush();
  static_cast<void>(tokenizer.value().decode(ids.value()));
  static_cast<void>(tokenizer.value().decode(std::vector<std::int64_t>{-1, 0, 1, 2, 1 << 30}));
  return 0;
}

#include "text/decoder.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "text/decode_steps.h"

namespace edgekiln::text {

namespace {

// Tokens around the one whose text between others is looked for.
constexpr const char* kBefore = "\x01";
constexpr const char* kAfter = "\x02";

template <typename Component>
bool has(const std::vector<Decoder>& components) {
  return std::any_of(components.begin(), components.end(),
                     [](const Decoder& component) { return std::holds_alternative<Component>(component); });
}

std::string joined(const Items& items) {
  std::string text;
  for (const std::string& item : items) text += item;
  return text;
}

}  // namespace

DecodeStream::DecodeStream(const std::vector<Decoder>& components) {
  bool joined = false;
  for (const Decoder& component : components) {
    steps_.push_back(make_step(component, joined));
    joined |= std::holds_alternative<DecodeFuse>(component) || std::holds_alternative<DecodeByteLevel>(component);
  }
}

std::string DecodeStream::push(std::string_view token) {
  Items items{std::string(token)};
  for (const auto& step : steps_) {
    Items out;
    for (std::string& item : items) step->push(std::move(item), out);
    items = std::move(out);
  }
  return joined(items);
}

std::string DecodeStream::flush() {
  Items items;
  for (const auto& step : steps_) {
    Items out;
    for (std::string& item : items) step->push(std::move(item), out);
    step->flush(out);
    items = std::move(out);
  }
  return joined(items);
}

std::string decode(const std::vector<Decoder>& components, const std::vector<std::string>& tokens) {
  DecodeStream stream(components);
  std::string text;
  for (const std::string& token : tokens) text += stream.push(token);
  return text + stream.flush();
}

std::string token_bytes(const std::vector<Decoder>& components, std::string_view token) {
  if (has<DecodeByteFallback>(components))
    if (const std::optional<char> byte = fallback_byte(token)) return {*byte};
  if (has<DecodeByteLevel>(components)) return byte_level_bytes(token);
  const std::string before = decode(components, {kBefore});
  const std::string around = decode(components, {kBefore, kAfter});
  std::string text = decode(components, {kBefore, std::string(token), kAfter});
  if (text.starts_with(before)) text.erase(0, before.size());
  const std::string_view after = std::string_view(around).substr(std::min(before.size(), around.size()));
  if (text.ends_with(after)) text.resize(text.size() - after.size());
  return text;
}

}  // namespace edgekiln::text

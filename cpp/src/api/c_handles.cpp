#include "api/c_handles.h"

#include <cstddef>
#include <string_view>

#include "api/c_status.h"
#include "api/c_structs.h"
#include "text/marked_text.h"
#include "text/utf8.h"

namespace edgekiln {

namespace {

// Call `visit(element)`, which returns Result<void>, with each struct of an array, whose stride is the struct_size of
// the first. `what` names an element in errors.
template <typename Struct, typename Visit>
Result<void> each_struct(const Struct* array, std::size_t count, const StructKind& kind, std::string_view what,
                         const Visit& visit) {
  if (!array) return null_argument(str_cat(what, "s"));
  const Result<std::size_t> stride = struct_size_of(array, kind);
  if (!stride) return std::unexpected(stride.error());
  const void* start = array;
  const auto* bytes = static_cast<const std::byte*>(start);
  for (std::size_t i = 0; i < count; ++i) {
    // Compared before the struct is read: a wrong size may reach beyond the array.
    const Result<std::size_t> size = struct_size_of(bytes + i * *stride, kind);
    if (!size) return std::unexpected(size.error());
    if (*size != *stride)
      return fail(Code::kRequest, "struct_size of ", what, " ", i + 1, " is ", *size, ", of ", what, " 1 ", *stride,
                  ": initialize each with ", kind.initializer);
    const Result<Struct> element = read_struct(bytes + i * *stride, Struct{}, kind);
    if (!element) return std::unexpected(element.error());
    if (const Result<void> visited = visit(*element); !visited) return visited;
  }
  return {};
}

Result<std::vector<ChatMessage>> convert(const edgekiln_message* messages, std::size_t count) {
  if (count == 0) return fail(Code::kRequest, "the conversation is empty: give at least one message");
  std::vector<ChatMessage> result;
  const auto add = [&result](const edgekiln_message& message) -> Result<void> {
    if (!message.role || !message.content) return null_argument("a message's role or content");
    for (const std::string_view text : {message.role, message.content})
      if (const Result<void> valid = check_utf8(text); !valid) return valid;
    result.push_back({message.role, message.content, message.parse_special != 0});
    return {};
  };
  if (const Result<void> read = each_struct(messages, count, kMessageKind, "message", add); !read)
    return std::unexpected(read.error());
  return result;
}

Result<text::MarkedText> convert(const edgekiln_prompt_part* parts, std::size_t count) {
  text::MarkedText result;
  const auto add = [&result](const edgekiln_prompt_part& part) -> Result<void> {
    if (!part.text && part.text_length) return null_argument("a part's text");
    const std::string_view text(part.text ? part.text : "", part.text_length);
    if (const Result<void> valid = check_utf8(text); !valid) return valid;
    result.append(text, part.parse_special ? text::kOwn : text::kGiven);
    return {};
  };
  if (count > 0)
    if (const Result<void> read = each_struct(parts, count, kPromptPartKind, "part", add); !read)
      return std::unexpected(read.error());
  return result;
}

}  // namespace

Result<void> check_utf8(std::string_view text) {
  const std::size_t at = text::find_invalid_utf8(text);
  if (at == std::string_view::npos) return {};
  return fail(Code::kRequest, "the text is not UTF-8 (byte ", at, "): convert it first");
}

Result<std::vector<std::int64_t>> encode(const LoadedEngine& engine, const char* text, std::size_t length,
                                         bool add_special, const EncodeLimits& limits) {
  const Result<const TextModel*> model = engine.need_text();
  if (!model) return std::unexpected(model.error());
  if (!text && length) return null_argument("text");
  const std::string_view whole(text ? text : "", length);
  if (const Result<void> valid = check_utf8(whole); !valid) return std::unexpected(valid.error());
  return (*model)->encode(whole, add_special, limits);
}

Result<std::vector<std::int64_t>> encode_parts(const LoadedEngine& engine, const edgekiln_prompt_part* parts,
                                               std::size_t count, const EncodeLimits& limits) {
  const Result<const TextModel*> model = engine.need_text();
  if (!model) return std::unexpected(model.error());
  const Result<text::MarkedText> prompt = convert(parts, count);
  if (!prompt) return std::unexpected(prompt.error());
  return (*model)->encode(*prompt, limits);
}

Result<std::vector<std::int64_t>> encode_chat(const LoadedEngine& engine, const edgekiln_message* messages,
                                              std::size_t count, const EncodeLimits& limits) {
  const Result<const TextModel*> model = engine.need_text();
  if (!model) return std::unexpected(model.error());
  const Result<std::vector<ChatMessage>> converted = convert(messages, count);
  if (!converted) return std::unexpected(converted.error());
  return (*model)->encode_chat(*converted, limits);
}

}  // namespace edgekiln

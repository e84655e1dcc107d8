// Reading and writing of the caller's structs, which may be smaller or larger than this library's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string_view>

#include "edgekiln/edgekiln.h"
#include "util/result.h"

namespace edgekiln {

// Above any size of a struct, so that the size in an uninitialized struct is refused instead of used.
constexpr std::size_t kMaxStructSize = 4096;

// A struct of the C API for error messages: its name and the function or macro that initializes it.
struct StructKind {
  std::string_view name;
  std::string_view initializer;
};

constexpr StructKind kEngineOptionsKind{"edgekiln_engine_options", "edgekiln_engine_options_init"};
constexpr StructKind kEngineInfoKind{"edgekiln_engine_info", "edgekiln_engine_info_init"};
constexpr StructKind kGenerateOptionsKind{"edgekiln_generate_options", "edgekiln_generate_options_init"};
constexpr StructKind kMessageKind{"edgekiln_message", "EDGEKILN_MESSAGE"};
constexpr StructKind kPromptPartKind{"edgekiln_prompt_part", "EDGEKILN_PROMPT_PART"};
constexpr StructKind kSummaryKind{"edgekiln_summary", "edgekiln_summary_init"};

// New fields may not reuse padding, whose bytes older callers leave uninitialized: a struct must end with its last
// field.
template <typename Struct, typename Last>
constexpr bool ends_with(std::size_t offset) {
  return offset + sizeof(Last) == sizeof(Struct);
}

#define EDGEKILN_NO_TAIL_PADDING(Struct, last) \
  static_assert(ends_with<Struct, decltype(Struct::last)>(offsetof(Struct, last)), "add a reserved field")

EDGEKILN_NO_TAIL_PADDING(edgekiln_engine_options, reserved);
EDGEKILN_NO_TAIL_PADDING(edgekiln_engine_info, has_chat);
EDGEKILN_NO_TAIL_PADDING(edgekiln_generate_options, mask_data);
EDGEKILN_NO_TAIL_PADDING(edgekiln_message, reserved);
EDGEKILN_NO_TAIL_PADDING(edgekiln_prompt_part, reserved);
EDGEKILN_NO_TAIL_PADDING(edgekiln_token, reserved);
EDGEKILN_NO_TAIL_PADDING(edgekiln_summary, reserved);

// The struct_size of the struct at `given`; an error of Code::kRequest if it cannot be one.
inline Result<std::size_t> struct_size_of(const void* given, const StructKind& kind) {
  std::size_t size = 0;
  std::memcpy(&size, given, sizeof size);
  if (size < sizeof size || size > kMaxStructSize)
    return fail(Code::kRequest, "struct_size of ", kind.name, " is ", size, ": initialize the struct with ",
                kind.initializer);
  return size;
}

// The caller's struct: its first struct_size bytes, and `defaults` for later fields. An error of Code::kUnsupported if
// it is larger than this library's and a byte of the part that this library does not know is not zero.
template <typename Struct>
Result<Struct> read_struct(const void* given, const Struct& defaults, const StructKind& kind) {
  const Result<std::size_t> size = struct_size_of(given, kind);
  if (!size) return std::unexpected(size.error());
  const auto* bytes = static_cast<const std::byte*>(given);
  if (*size > sizeof(Struct) &&
      std::any_of(bytes + sizeof(Struct), bytes + *size, [](std::byte byte) { return byte != std::byte{0}; }))
    return fail(Code::kUnsupported, kind.name, " has ", *size, " bytes, libedgekiln ", EDGEKILN_VERSION, " knows ",
                sizeof(Struct), ", and a field behind them is set: leave it at zero, or upgrade libedgekiln");
  Struct result = defaults;
  std::memcpy(&result, given, std::min(*size, sizeof(Struct)));
  return result;
}

// Write `value` to the caller's struct of `size` bytes, which are zero where this library has no field.
template <typename Struct>
void write_struct(void* target, Struct value, std::size_t size) {
  value.struct_size = size;
  std::memset(target, 0, size);
  std::memcpy(target, &value, std::min(size, sizeof(Struct)));
}

// The value of an enum field, which a caller may have set to any int.
template <typename Enum>
int enum_value(const Enum& field) {
  static_assert(sizeof(Enum) == sizeof(int));
  int value = 0;
  std::memcpy(&value, &field, sizeof value);
  return value;
}

}  // namespace edgekiln

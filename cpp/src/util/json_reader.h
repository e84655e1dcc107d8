// Validated reading of JSON files. A missing, mistyped or unknown field becomes one error that names file and field.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "util/result.h"

namespace edgekiln {

// Thrown while a file is read; `read_checked` adds the file's name and turns it into an Error.
struct JsonError : std::exception {
  JsonError(Code error_code, std::string error_reason) : code(error_code), reason(std::move(error_reason)) {}
  const char* what() const noexcept override { return reason.c_str(); }

  Code code;
  std::string reason;  // for Code::kEngine "kv_cache.dtype: it is missing"; for Code::kUnsupported "a model of type X"
};

// A text of an untrusted file for an error message: its first 60 characters, without control characters.
std::string shown(std::string_view text);

// Throw JsonError with Code::kEngine: the file is damaged.
[[noreturn]] void damaged(std::string reason);

// Throw JsonError with Code::kUnsupported: `reason` is a noun phrase for the part that is not implemented.
[[noreturn]] void unsupported(std::string reason);

// A JSON object and its dotted path in the file. Its functions throw JsonError. null counts as missing.
class JsonObject {
 public:
  // `value` must outlive the object. Throws JsonError if it is not an object. `path` is empty for the root.
  JsonObject(const nlohmann::json& value, std::string path);

  // Required fields.
  std::string string(std::string_view key);
  std::int64_t integer(std::string_view key, std::int64_t low = std::numeric_limits<std::int64_t>::min());
  std::vector<std::int64_t> integers(std::string_view key, std::int64_t low);
  std::vector<std::string> strings(std::string_view key);
  std::vector<std::string> text_or_texts(std::string_view key);  // a string, or a list of strings
  std::map<std::string, std::string> string_map(std::string_view key);
  JsonObject object(std::string_view key);
  std::vector<JsonObject> objects(std::string_view key);

  // Optional fields.
  std::string string_or(std::string_view key, std::string fallback);
  bool boolean_or(std::string_view key, bool fallback);
  std::vector<std::int64_t> integers_or_empty(std::string_view key, std::int64_t low);
  std::vector<std::string> strings_or_empty(std::string_view key);
  std::optional<std::string> optional_string(std::string_view key);
  std::optional<std::int64_t> optional_integer(std::string_view key,
                                               std::int64_t low = std::numeric_limits<std::int64_t>::min());
  std::optional<double> optional_number(std::string_view key);
  std::optional<JsonObject> optional_object(std::string_view key);
  std::vector<JsonObject> objects_or_empty(std::string_view key);
  // Call `read` with each object of a list, in order, so that the first mistake in the list is the one that is
  // reported.
  void each_object(std::string_view key, const std::function<void(JsonObject)>& read);

  bool has(std::string_view key);
  std::vector<std::string> keys() const;

  // Accept a field without reading it.
  void ignore(std::string_view key) { known_.emplace(key); }

  // Throw JsonError for the first field that none of the calls above named.
  void refuse_unknown_keys() const;

  // Throw JsonError: the value of `key` is wrong for `reason`.
  [[noreturn]] void refuse(std::string_view key, std::string_view reason) const;

 private:
  const nlohmann::json* find(std::string_view key);
  const nlohmann::json& require(std::string_view key);
  std::string path_of(std::string_view key) const;

  const nlohmann::json* value_;
  std::string path_;
  std::set<std::string, std::less<>> known_;
};

using JsonDocument = std::shared_ptr<const nlohmann::json>;

// Throws JsonError for what nlohmann's parser takes but is not JSON, a byte order mark and text after a zero byte, and
// for arrays and objects that are nested too deeply.
void check_json(std::string_view text);

// Throws JsonError if `text` is not JSON.
JsonDocument parse_json(std::string_view text);

// The error for a file at `path` whose contents are wrong for `reason`.
Failure damaged_file(std::string_view path, std::string_view reason);

Failure json_failure(std::string_view path, const JsonError& error);

// `read()`, a Result, with any JsonError it throws as a failure that names the file at `path`.
template <typename Read>
auto read_checked(std::string_view path, const Read& read) -> decltype(read()) {
  try {
    return read();
  } catch (const JsonError& error) {
    return json_failure(path, error);
  }
}

}  // namespace edgekiln

#include "util/json_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "util/str_cat.h"

namespace edgekiln {

using nlohmann::json;

namespace {

// False for an unsigned number above the range of int64.
bool is_int64(const json& value) {
  return value.is_number_integer() &&
         (!value.is_number_unsigned() || value.get<std::uint64_t>() <= std::numeric_limits<std::int64_t>::max());
}

[[noreturn]] void refuse_at(const std::string& path, std::string_view reason) {
  damaged(path.empty() ? std::string(reason) : str_cat(path, ": ", reason));
}

// Arrays and objects inside each other; no file of an engine has more than ten.
constexpr std::size_t kMaxDepth = 100;

// The most brackets outside strings that are open at once.
std::size_t depth_of(std::string_view text) {
  std::size_t depth = 0;
  std::size_t most = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"')
      for (++i; i < text.size() && text[i] != '"'; ++i) i += text[i] == '\\' ? 1U : 0U;
    else if (text[i] == '[' || text[i] == '{')
      most = std::max(most, ++depth);
    else if ((text[i] == ']' || text[i] == '}') && depth)
      --depth;
  }
  return most;
}

const json& checked_list(const json& value, const std::string& path) {
  if (!value.is_array()) refuse_at(path, "it is not a list");
  return value;
}

std::int64_t integer_of(const json& value, const std::string& path, std::int64_t low) {
  if (!is_int64(value)) refuse_at(path, "it is not an integer");
  const auto number = value.get<std::int64_t>();
  if (number < low) refuse_at(path, str_cat("it is ", number, ", the least is ", low));
  return number;
}

std::vector<std::int64_t> integers_of(const json& value, const std::string& path, std::int64_t low) {
  std::vector<std::int64_t> result;
  for (const json& item : checked_list(value, path))
    result.push_back(integer_of(item, str_cat(path, '.', result.size()), low));
  return result;
}

std::vector<std::string> strings_of(const json& value, const std::string& path) {
  std::vector<std::string> result;
  for (const json& item : checked_list(value, path)) {
    if (!item.is_string()) refuse_at(str_cat(path, '.', result.size()), "it is not a string");
    result.push_back(item.get<std::string>());
  }
  return result;
}

std::vector<JsonObject> objects_of(const json& value, const std::string& path) {
  std::vector<JsonObject> result;
  for (const json& item : checked_list(value, path)) result.emplace_back(item, str_cat(path, '.', result.size()));
  return result;
}

}  // namespace

std::string shown(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  std::string result;
  std::size_t characters = 0;
  for (std::size_t i = 0; i < text.size(); ++characters) {
    if (characters == kLongest) return result + "…";
    std::size_t end = i + 1;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
    const std::string_view character = text.substr(i, end - i);
    const auto first = static_cast<unsigned char>(character[0]);
    const bool is_c1 = first == 0xC2 && character.size() == 2 && static_cast<unsigned char>(character[1]) < 0xA0;
    const bool is_separator = character == "\u2028" || character == "\u2029";
    result += first < 0x20 || first == 0x7F || is_c1 || is_separator ? "?" : character;
    i = end;
  }
  return result;
}

void damaged(std::string reason) { throw JsonError(Code::kEngine, std::move(reason)); }

void unsupported(std::string reason) { throw JsonError(Code::kUnsupported, std::move(reason)); }

JsonObject::JsonObject(const json& value, std::string path) : value_(&value), path_(std::move(path)) {
  if (!value.is_object()) refuse_at(path_, "it is not an object");
}

std::string JsonObject::path_of(std::string_view key) const {
  return path_.empty() ? shown(key) : str_cat(path_, '.', shown(key));
}

void JsonObject::refuse(std::string_view key, std::string_view reason) const { refuse_at(path_of(key), reason); }

const json* JsonObject::find(std::string_view key) {
  known_.emplace(key);
  const auto found = value_->find(key);
  return found == value_->end() || found->is_null() ? nullptr : &*found;
}

const json& JsonObject::require(std::string_view key) {
  const json* value = find(key);
  if (!value) refuse(key, "it is missing");
  return *value;
}

bool JsonObject::has(std::string_view key) { return find(key) != nullptr; }

std::vector<std::string> JsonObject::keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : value_->items()) keys.push_back(key);
  return keys;
}

std::string JsonObject::string(std::string_view key) {
  const json& value = require(key);
  if (!value.is_string()) refuse(key, "it is not a string");
  return value.get<std::string>();
}

std::string JsonObject::string_or(std::string_view key, std::string fallback) {
  return has(key) ? string(key) : std::move(fallback);
}

std::optional<std::string> JsonObject::optional_string(std::string_view key) {
  return has(key) ? std::optional(string(key)) : std::nullopt;
}

std::int64_t JsonObject::integer(std::string_view key, std::int64_t low) {
  return integer_of(require(key), path_of(key), low);
}

std::optional<std::int64_t> JsonObject::optional_integer(std::string_view key, std::int64_t low) {
  return has(key) ? std::optional(integer(key, low)) : std::nullopt;
}

std::optional<double> JsonObject::optional_number(std::string_view key) {
  const json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_number()) refuse(key, "it is not a number");
  return value->get<double>();
}

bool JsonObject::boolean_or(std::string_view key, bool fallback) {
  const json* value = find(key);
  if (!value) return fallback;
  if (!value->is_boolean()) refuse(key, "it is not true or false");
  return value->get<bool>();
}

std::vector<std::int64_t> JsonObject::integers(std::string_view key, std::int64_t low) {
  return integers_of(require(key), path_of(key), low);
}

std::vector<std::int64_t> JsonObject::integers_or_empty(std::string_view key, std::int64_t low) {
  const json* value = find(key);
  return value ? integers_of(*value, path_of(key), low) : std::vector<std::int64_t>{};
}

std::vector<std::string> JsonObject::strings(std::string_view key) { return strings_of(require(key), path_of(key)); }

std::vector<std::string> JsonObject::strings_or_empty(std::string_view key) {
  return has(key) ? strings(key) : std::vector<std::string>{};
}

std::vector<std::string> JsonObject::text_or_texts(std::string_view key) {
  const json& value = require(key);
  if (value.is_string()) return {value.get<std::string>()};
  if (!value.is_array() || !std::all_of(value.begin(), value.end(), [](const json& item) { return item.is_string(); }))
    refuse(key, "it is not a string or a list of strings");
  return strings(key);
}

std::map<std::string, std::string> JsonObject::string_map(std::string_view key) {
  JsonObject fields = object(key);
  std::map<std::string, std::string> result;
  for (std::string& name : fields.keys()) {
    std::string text = fields.string(name);
    result.emplace(std::move(name), std::move(text));
  }
  return result;
}

JsonObject JsonObject::object(std::string_view key) { return {require(key), path_of(key)}; }

std::optional<JsonObject> JsonObject::optional_object(std::string_view key) {
  return has(key) ? std::optional(object(key)) : std::nullopt;
}

std::vector<JsonObject> JsonObject::objects(std::string_view key) { return objects_of(require(key), path_of(key)); }

std::vector<JsonObject> JsonObject::objects_or_empty(std::string_view key) {
  return has(key) ? objects(key) : std::vector<JsonObject>{};
}

void JsonObject::each_object(std::string_view key, const std::function<void(JsonObject)>& read) {
  const json* value = find(key);
  if (!value) return;
  std::size_t index = 0;
  for (const json& item : checked_list(*value, path_of(key))) read({item, str_cat(path_of(key), '.', index++)});
}

void JsonObject::refuse_unknown_keys() const {
  for (const auto& [key, value] : value_->items())
    if (!known_.contains(key)) refuse(key, "it is not known");
}

void check_json(std::string_view text) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.starts_with(kByteOrderMark) || text.find('\0') != std::string_view::npos || depth_of(text) > kMaxDepth)
    damaged("it is not JSON");
}

JsonDocument parse_json(std::string_view text) {
  check_json(text);
  auto document = std::make_shared<json>(json::parse(text, nullptr, /*allow_exceptions=*/false));
  if (document->is_discarded()) damaged("it is not JSON");
  return document;
}

Failure damaged_file(std::string_view path, std::string_view reason) {
  return fail(Code::kEngine, path, " is damaged: ", reason, ", build the engine again");
}

Failure json_failure(std::string_view path, const JsonError& error) {
  if (error.code == Code::kEngine) return damaged_file(path, error.reason);
  if (error.code == Code::kUnsupported)
    return fail(error.code, path, " has ", error.reason, ", which this library does not know");
  return fail(error.code, error.reason);
}

}  // namespace edgekiln

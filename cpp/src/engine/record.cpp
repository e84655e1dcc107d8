#include "engine/record.h"

#include <utility>

#include "util/str_cat.h"

namespace edgekiln {

namespace {

using nlohmann::json;

const json& empty_object() {
  static const json object = json::object();
  return object;
}

// Also for an unsigned number that is larger than any signed one.
bool is_integer(const json& value) {
  return value.is_number_integer() &&
         (!value.is_number_unsigned() || value.get<std::uint64_t>() <= std::numeric_limits<std::int64_t>::max());
}

}  // namespace

Record::Record(const json& value, std::string where, std::string& complaint)
    : value_(value.is_object() ? value : empty_object()), where_(std::move(where)), complaint_(complaint) {
  if (!value.is_object()) complain("", "it is not an object");
}

void Record::complain(const std::string& name, const std::string& what) {
  if (!complaint_.empty()) return;
  std::string where = where_;
  if (!where.empty() && !name.empty()) where += '.';
  where += name;
  complaint_ = where.empty() ? what : sentence(where, ": ", what);
}

const json* Record::find(const char* name) {
  known_.insert(name);
  const auto found = value_.find(name);
  return found == value_.end() ? nullptr : &*found;
}

const json* Record::require(const char* name) {
  const json* value = find(name);
  if (!value) complain(name, "it is missing");
  return value;
}

std::string Record::text(const char* name) {
  const json* value = require(name);
  if (!value) return {};
  if (!value->is_string()) {
    complain(name, "it is not a string");
    return {};
  }
  return value->get<std::string>();
}

std::string Record::text_or(const char* name, std::string otherwise) {
  return value_.contains(name) ? text(name) : otherwise;
}

std::int64_t Record::integer(const char* name, std::int64_t low) {
  const json* value = require(name);
  if (!value) return 0;
  if (!is_integer(*value)) {
    complain(name, "it is not an integer");
    return 0;
  }
  const auto number = value->get<std::int64_t>();
  if (number < low) complain(name, sentence("it is ", number, ", the least is ", low));
  return number;
}

bool Record::boolean_or(const char* name, bool otherwise) {
  const json* value = find(name);
  if (!value) return otherwise;
  if (!value->is_boolean()) {
    complain(name, "it is not true or false");
    return otherwise;
  }
  return value->get<bool>();
}

std::map<std::string, std::string> Record::texts(const char* name) {
  std::map<std::string, std::string> result;
  const json* value = require(name);
  if (!value) return result;
  if (!value->is_object()) {
    complain(name, "it is not an object");
    return result;
  }
  for (const auto& [key, text] : value->items()) {
    if (text.is_string())
      result[key] = text.get<std::string>();
    else
      complain(sentence(name, '.', key), "it is not a string");
  }
  return result;
}

std::vector<std::int64_t> Record::integers_of(const char* name, const json& value, std::int64_t low) {
  std::vector<std::int64_t> result;
  if (!value.is_array()) complain(name, "it is not a list");
  if (!value.is_array()) return result;
  for (const json& item : value) {
    if (!is_integer(item) || item.get<std::int64_t>() < low) {
      complain(sentence(name, '.', result.size()), sentence("it is not an integer of at least ", low));
      return result;
    }
    result.push_back(item.get<std::int64_t>());
  }
  return result;
}

std::vector<std::int64_t> Record::integers(const char* name, std::int64_t low) {
  const json* value = require(name);
  return value ? integers_of(name, *value, low) : std::vector<std::int64_t>{};
}

std::vector<std::int64_t> Record::integers_or_none(const char* name) {
  const json* value = find(name);
  return value ? integers_of(name, *value, 0) : std::vector<std::int64_t>{};
}

std::vector<std::string> Record::words(const char* name) {
  std::vector<std::string> result;
  const json* value = require(name);
  if (!value) return result;
  if (!value->is_array()) complain(name, "it is not a list");
  if (!value->is_array()) return result;
  for (const json& item : *value) {
    if (!item.is_string()) {
      complain(sentence(name, '.', result.size()), "it is not a string");
      return result;
    }
    result.push_back(item.get<std::string>());
  }
  return result;
}

bool Record::has(const char* name) {
  const json* value = find(name);
  return value && !value->is_null();
}

std::optional<std::string> Record::optional_text(const char* name) {
  const json* value = find(name);
  if (!value || value->is_null()) return std::nullopt;
  return text(name);
}

std::optional<std::int64_t> Record::optional_integer(const char* name) {
  const json* value = find(name);
  if (!value || value->is_null()) return std::nullopt;
  return integer(name);
}

std::optional<double> Record::optional_number(const char* name) {
  const json* value = find(name);
  if (!value || value->is_null()) return std::nullopt;
  if (!value->is_number()) {
    complain(name, "it is not a number");
    return std::nullopt;
  }
  return value->get<double>();
}

Record Record::record(const char* name, bool required) {
  const json* value = required ? require(name) : find(name);
  const std::string where = where_.empty() ? name : sentence(where_, '.', name);
  return Record(value ? *value : empty_object(), where, complaint_);
}

void Record::finish() {
  for (const auto& [key, value] : value_.items())
    if (!known_.contains(key)) complain(key, "it is not known");
}

}  // namespace edgekiln

#include "util/json.h"

#include "util/str_cat.h"

namespace edgekiln::text {

using nlohmann::json;

namespace {

const json& needed(const json& object, const char* key) {
  const json* found = member(object, key);
  if (found == nullptr) damaged(sentence("\"", key, "\" is missing"));
  return *found;
}

}  // namespace

void damaged(std::string reason) { throw Refused(Code::kEngine, std::move(reason)); }

void unsupported(std::string reason) { throw Refused(Code::kUnsupported, std::move(reason)); }

const json* member(const json& object, const char* key) {
  if (!object.is_object()) damaged(sentence("what should have \"", key, "\" is no object"));
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string string_of(const json& object, const char* key) {
  const json& value = needed(object, key);
  if (!value.is_string()) damaged(sentence("\"", key, "\" is no string"));
  return value.get<std::string>();
}

bool flag_of(const json& object, const char* key, bool otherwise) {
  const json* value = member(object, key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) damaged(sentence("\"", key, "\" is neither true nor false"));
  return value->get<bool>();
}

std::uint64_t number_of(const json& object, const char* key) {
  const json& value = needed(object, key);
  if (!value.is_number_unsigned()) damaged(sentence("\"", key, "\" is no number from 0"));
  return value.get<std::uint64_t>();
}

const json& list_of(const json& object, const char* key) {
  const json& value = needed(object, key);
  if (!value.is_array()) damaged(sentence("\"", key, "\" is no list"));
  return value;
}

}  // namespace edgekiln::text

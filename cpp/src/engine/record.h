// Reading a JSON object field by field, strictly: what is missing, of another type or not known is an error.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace edgekiln {

// Collects the first complaint about an object and the objects in it; what it reads after one is of no meaning.
class Record {
 public:
  // `where` is the object's own name, empty for the outermost; `complaint` outlives this.
  Record(const nlohmann::json& value, std::string where, std::string& complaint);

  std::string text(const char* name);
  std::int64_t integer(const char* name, std::int64_t low = std::numeric_limits<std::int64_t>::min());
  std::map<std::string, std::string> texts(const char* name);
  // As `otherwise` if the field is missing.
  std::string text_or(const char* name, std::string otherwise);
  bool boolean_or(const char* name, bool otherwise);
  std::vector<std::int64_t> integers_or_none(const char* name);
  // Empty if the field is missing or null.
  std::optional<std::string> optional_text(const char* name);
  std::optional<std::int64_t> optional_integer(const char* name);
  std::optional<double> optional_number(const char* name);
  // An object in this one; an empty one if it may be missing and is.
  Record record(const char* name, bool required = true);
  std::vector<std::int64_t> integers(const char* name, std::int64_t low);
  std::vector<std::string> words(const char* name);
  bool has(const char* name);  // neither missing nor null
  // Read past a field that this library has no use for.
  void skip(const char* name) { known_.insert(name); }

  // Complain of the first field that none of the above asked for.
  void finish();

 private:
  const nlohmann::json* find(const char* name);
  const nlohmann::json* require(const char* name);
  void complain(const std::string& name, const std::string& what);
  std::vector<std::int64_t> integers_of(const char* name, const nlohmann::json& value, std::int64_t low);

  const nlohmann::json& value_;
  std::string where_;
  std::string& complaint_;
  std::set<std::string> known_;
};

}  // namespace edgekiln

#include "text/tokenizer_json.h"

#include <nlohmann/json.hpp>

#include "util/str_cat.h"

namespace edgekiln::text {

namespace {

using nlohmann::json;

// Handles the events of nlohmann's SAX parser. `depth_` is the number of open objects and lists.
class Handler : public nlohmann::json_sax<json> {
 public:
  TokenizerJson result() && {
    read_.rest = std::make_shared<const json>(std::move(rest_));
    return std::move(read_);
  }

  bool null() override { return leaf(nullptr, "null"); }
  bool boolean(bool value) override { return leaf(value, "true or false"); }
  bool number_integer(number_integer_t value) override { return leaf(value, "a negative number"); }
  bool number_float(number_float_t value, const string_t&) override { return leaf(value, "a fraction"); }
  bool binary(binary_t&) override { return false; }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kVocabulary) return leaf(value, "a number");
    if (depth_ != 3) damaged("model.vocab has something else than ids");
    if (value >= Vocabulary::kMaxIds) damaged(str_cat("the id ", value, " in model.vocab is too large"));
    read_.vocabulary.add(key_, static_cast<std::uint32_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ != Place::kMerges) return leaf(value, "a string");
    if (depth_ == 3) {
      const std::size_t space = value.find(' ');
      if (space == string_t::npos || value.find(' ', space + 1) != string_t::npos)
        damaged(str_cat("the merge \"", value, "\" is not of two tokens"));
      add_merge(value.substr(0, space), value.substr(space + 1));
    } else if (halves_++ == 0) {
      left_ = value;
    } else {
      if (halves_ > 2) damaged(str_cat("a merge of \"", left_, "\" is not of two tokens"));
      add_merge(left_, value);
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::kMerges) damaged("model.merges has an object");
    if (place_ == Place::kVocabulary) damaged("model.vocab has an object");
    if (depth_ == 2 && at_model_ && key_ == "vocab") return enter(Place::kVocabulary, read_.has_vocabulary);
    return open(json::object());
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::kVocabulary) damaged("model.vocab has a list");
    if (place_ == Place::kMerges) {
      if (depth_ != 3) damaged("model.merges has lists in lists");
      halves_ = 0;
      ++depth_;
      return true;
    }
    if (depth_ == 2 && at_model_ && key_ == "merges") return enter(Place::kMerges, read_.has_merges);
    return open(json::array());
  }

  bool key(string_t& value) override {
    if (depth_ == 1) at_model_ = value == "model";
    key_ = value;
    if (place_ == Place::kElsewhere) keys_.back() = value;
    return true;
  }

  bool end_object() override { return close(); }

  bool end_array() override {
    if (place_ == Place::kMerges && depth_ == 4 && halves_ != 2)
      damaged("a merge in model.merges is not of two tokens");
    return close();
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

 private:
  enum class Place { kElsewhere, kVocabulary, kMerges };

  bool enter(Place place, bool& seen) {
    if (seen) damaged(str_cat("model.", key_, " is there twice"));
    seen = true;
    place_ = place;
    ++depth_;
    return true;
  }

  void add_merge(const std::string& left, const std::string& right) {
    read_.merges.emplace_back(left.size(), right.size());
    read_.merge_texts += left;
    read_.merge_texts += right;
  }

  bool leaf(json value, std::string_view what) {
    if (place_ != Place::kElsewhere)
      damaged(str_cat(place_ == Place::kMerges ? "model.merges" : "model.vocab", " has ", what));
    put(std::move(value));
    return true;
  }

  json* put(json value) {
    if (open_.empty()) return &(rest_ = std::move(value));
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[keys_.back()] = std::move(value));
  }

  bool open(json container) {
    // The pointer stays valid: a list reallocates only when an element is appended, after this one was closed.
    open_.push_back(put(std::move(container)));
    keys_.emplace_back();
    ++depth_;
    return true;
  }

  bool close() {
    --depth_;
    if (place_ == Place::kElsewhere) {
      open_.pop_back();
      keys_.pop_back();
    } else if (depth_ == 2) {
      place_ = Place::kElsewhere;
    }
    return true;
  }

  TokenizerJson read_;
  json rest_;
  Place place_ = Place::kElsewhere;
  std::size_t depth_ = 0;
  bool at_model_ = false;
  std::string key_;
  std::string left_;
  int halves_ = 0;
  std::vector<json*> open_;
  std::vector<std::string> keys_;
};

}  // namespace

TokenizerJson read_tokenizer_json(std::string_view text) {
  check_json(text);
  Handler handler;
  if (!json::sax_parse(text, &handler)) damaged("it is not JSON");
  return std::move(handler).result();
}

}  // namespace edgekiln::text

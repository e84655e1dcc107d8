#include "text/decode_steps.h"

#include <algorithm>
#include <utility>

#include "text/pattern.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"

namespace edgekiln::text {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

std::optional<unsigned> hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') return static_cast<unsigned>((c | 0x20) - 'a') + 10;
  return std::nullopt;
}

std::string with_replaced(const std::string& text, std::string_view item, std::string_view content) {
  return replaced(text, item, content).value_or(std::string(item));  // replacing a plain string cannot fail
}

class ByteLevelStep : public DecodeStep {
 public:
  void push(std::string item, Items& out) override {
    held_ += byte_level_bytes(item);
    const std::size_t done = held_.size() - unfinished_at_end(held_);
    out.push_back(to_valid_utf8(std::string_view(held_).substr(0, done)));
    held_.erase(0, done);
  }

  void flush(Items& out) override { out.push_back(to_valid_utf8(std::exchange(held_, {}))); }

 private:
  std::string held_;  // the beginning of a character
};

// If a run of byte tokens is not valid UTF-8 as a whole, each of its bytes becomes U+FFFD. So the text of a run is held
// back until the run ends or has an invalid byte.
class ByteFallbackStep : public DecodeStep {
 public:
  void push(std::string item, Items& out) override {
    const std::optional<char> byte = fallback_byte(item);
    if (!byte) {
      flush(out);
      out.push_back(std::move(item));
      return;
    }
    ++size_;
    if (!valid_) {
      out.emplace_back(kReplacement);
      return;
    }
    unfinished_ += *byte;
    if (is_valid_utf8(unfinished_)) {
      text_ += std::exchange(unfinished_, {});
    } else if (unfinished_at_end(unfinished_) != unfinished_.size()) {
      valid_ = false;
      out.insert(out.end(), size_, std::string(kReplacement));
    }
  }

  void flush(Items& out) override {
    if (valid_ && size_ > 0) {
      if (unfinished_.empty())
        out.push_back(std::move(text_));
      else
        out.insert(out.end(), size_, std::string(kReplacement));
    }
    *this = ByteFallbackStep();
  }

 private:
  std::string text_;        // of the run
  std::string unfinished_;  // the beginning of a character after it
  std::size_t size_ = 0;    // bytes of the run; 0 between runs
  bool valid_ = true;
};

class FuseStep : public DecodeStep {
 public:
  void push(std::string item, Items& out) override { out.push_back(std::move(item)); }
};

class SpaceBetweenStep : public DecodeStep {
 public:
  void push(std::string item, Items& out) override {
    out.push_back(std::exchange(first_, false) ? std::move(item) : " " + item);
  }

 private:
  bool first_ = true;
};

class ReplaceStep : public DecodeStep {
 public:
  explicit ReplaceStep(const DecodeReplace& component) : component_(component) {}
  void push(std::string item, Items& out) override {
    out.push_back(with_replaced(component_.text, item, component_.content));
  }

 private:
  const DecodeReplace component_;
};

// Replaces in the text. An end that may be the start of the string is held back.
class ReplaceTextStep : public DecodeStep {
 public:
  explicit ReplaceTextStep(const DecodeReplace& component) : component_(component) {}

  void push(std::string item, Items& out) override {
    const std::string& wanted = component_.text;
    const std::string text = std::exchange(held_, {}) + item;
    std::size_t end = 0;  // of the last match
    for (std::size_t at = text.find(wanted); at != std::string::npos; at = text.find(wanted, end))
      end = at + wanted.size();
    std::size_t held = std::min(wanted.size() - 1, text.size() - end);
    while (!text.ends_with(std::string_view(wanted).substr(0, held))) --held;
    out.push_back(with_replaced(wanted, std::string_view(text).substr(0, text.size() - held), component_.content));
    held_ = text.substr(text.size() - held);
  }

  void flush(Items& out) override { out.push_back(std::exchange(held_, {})); }

 private:
  const DecodeReplace component_;
  std::string held_;
};

class StripStep : public DecodeStep {
 public:
  explicit StripStep(const DecodeStrip& component) : component_(component) {}

  void push(std::string item, Items& out) override {
    std::string_view rest = item;
    for (std::size_t i = 0; i < component_.start && rest.starts_with(component_.character); ++i)
      rest.remove_prefix(component_.character.size());
    for (std::size_t i = 0; i < component_.stop && rest.ends_with(component_.character); ++i)
      rest.remove_suffix(component_.character.size());
    out.emplace_back(rest);
  }

 private:
  const DecodeStrip component_;
};

// Strips the text. Characters that would be removed at its end are held back.
class StripTextStep : public DecodeStep {
 public:
  explicit StripTextStep(const DecodeStrip& component) : component_(component) {}

  void push(std::string item, Items& out) override {
    const std::string& character = component_.character;
    std::string_view rest = item;
    for (; component_.start > 0 && rest.starts_with(character); --component_.start)
      rest.remove_prefix(character.size());
    if (!rest.empty()) component_.start = 0;
    std::string text = std::exchange(held_, {}).append(rest);
    std::size_t kept = text.size();
    for (std::size_t i = 0; i < component_.stop && std::string_view(text).substr(0, kept).ends_with(character); ++i)
      kept -= character.size();
    held_ = text.substr(kept);
    text.resize(kept);
    out.push_back(std::move(text));
  }

 private:
  DecodeStrip component_;
  std::string held_;
};

class MetaspaceStep : public DecodeStep {
 public:
  explicit MetaspaceStep(const DecodeMetaspace& component) : component_(component) {}

  void push(std::string item, Items& out) override {
    const bool drop = std::exchange(first_, false) && component_.drop_first;
    out.push_back(with_replaced(component_.replacement, item, drop ? "" : " "));
  }

 private:
  const DecodeMetaspace component_;
  bool first_ = true;
};

// A component that needs the whole text. Its text comes at the end.
class WholeStep : public DecodeStep {
 public:
  explicit WholeStep(std::unique_ptr<DecodeStep> step) : step_(std::move(step)) {}
  void push(std::string item, Items&) override { text_ += item; }
  void flush(Items& out) override {
    step_->push(std::move(text_), out);
    step_->flush(out);
  }

 private:
  const std::unique_ptr<DecodeStep> step_;
  std::string text_;
};

struct MakeTokenStep {
  std::unique_ptr<DecodeStep> operator()(const DecodeByteLevel&) const { return std::make_unique<ByteLevelStep>(); }
  std::unique_ptr<DecodeStep> operator()(const DecodeByteFallback&) const {
    return std::make_unique<ByteFallbackStep>();
  }
  std::unique_ptr<DecodeStep> operator()(const DecodeFuse&) const { return std::make_unique<FuseStep>(); }
  std::unique_ptr<DecodeStep> operator()(const DecodeSpaceBetween&) const {
    return std::make_unique<SpaceBetweenStep>();
  }
  std::unique_ptr<DecodeStep> operator()(const DecodeReplace& component) const {
    return std::make_unique<ReplaceStep>(component);
  }
  std::unique_ptr<DecodeStep> operator()(const DecodeStrip& component) const {
    return std::make_unique<StripStep>(component);
  }
  std::unique_ptr<DecodeStep> operator()(const DecodeMetaspace& component) const {
    return std::make_unique<MetaspaceStep>(component);
  }
};

}  // namespace

std::unique_ptr<DecodeStep> make_step(const Decoder& component, bool joined) {
  if (joined) {
    if (const auto* replace = std::get_if<DecodeReplace>(&component))
      return std::make_unique<ReplaceTextStep>(*replace);
    if (const auto* strip = std::get_if<DecodeStrip>(&component)) return std::make_unique<StripTextStep>(*strip);
  }
  std::unique_ptr<DecodeStep> step = std::visit(MakeTokenStep{}, component);
  if (!joined || std::holds_alternative<DecodeFuse>(component)) return step;
  return std::make_unique<WholeStep>(std::move(step));
}

std::string byte_level_bytes(std::string_view token) {
  std::string bytes;
  for (std::size_t at = 0; at < token.size();) {
    const CodePoint next = code_point_at(token, at);
    const int byte = byte_of_character(next.value);
    if (byte < 0) return std::string(token);
    bytes += static_cast<char>(static_cast<unsigned char>(byte));
    at += next.size;
  }
  return bytes;
}

std::optional<char> fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
  // `tokenizers` accepts a plus sign as the first digit.
  const auto high = token[3] == '+' ? std::optional(0U) : hex_digit(token[3]);
  const auto low = hex_digit(token[4]);
  if (!high || !low) return std::nullopt;
  return static_cast<char>(static_cast<unsigned char>(*high << 4 | *low));
}

}  // namespace edgekiln::text

#include "generate/answer_text.h"

#include <utility>

namespace edgekiln {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace

AnswerText::AnswerText(TextStream* stream, const std::vector<std::string>& stop) : stream_(stream) {
  if (!stream || stop.empty()) return;
  stop_.emplace(stop);
  std::vector<std::string> replaced;
  for (const std::string& one : stop)
    if (one.contains(kReplacement)) replaced.push_back(one);
  if (!replaced.empty()) shown_.emplace(std::move(replaced));
}

AnswerText::Piece AnswerText::push(std::int64_t token) {
  if (!stream_) return {};
  if (!stop_) return {stream_->push(token)};
  held_.push_back(token);
  const StopMatcher::Match match = stop_->push(stream_->token_bytes(token));
  std::string text;
  for (std::size_t i = 0; i < match.count; ++i) {
    text += stream_->push(held_.front());
    held_.pop_front();
  }
  if (!match.cut) return shown_ ? shown_->push(std::move(text)) : Piece{std::move(text)};
  text += stream_->end_within(held_.front(), *match.cut);
  return {shown_ ? shown_->end(std::move(text)).text : std::move(text), true};
}

AnswerText::Piece AnswerText::flush() {
  if (!stream_) return {};
  std::string text;
  for (const std::int64_t token : held_) text += stream_->push(token);
  text += stream_->flush();
  return shown_ ? shown_->end(std::move(text)) : Piece{std::move(text)};
}

AnswerText::Piece AnswerText::Shown::push(std::string text) {
  held_.push_back(std::move(text));
  const StopMatcher::Match match = stop_.push(held_.back());
  Piece piece{{}, match.cut.has_value()};
  for (std::size_t i = 0; i < match.count; ++i) {
    piece.text += held_.front();
    held_.pop_front();
  }
  if (match.cut) piece.text += std::string_view(held_.front()).substr(0, *match.cut);
  return piece;
}

AnswerText::Piece AnswerText::Shown::end(std::string text) {
  Piece piece = push(std::move(text));
  if (!piece.stopped)
    for (const std::string& held : held_) piece.text += held;
  return piece;
}

}  // namespace edgekiln

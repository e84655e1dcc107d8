// The text of an answer, cut before the first stop string.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "generate/stop.h"
#include "generate/text_stream.h"

namespace edgekiln {

// Turns the tokens of an answer into its text. Stop strings are looked for in the text with all special tokens,
// whichever of them are shown. Only a stop string with U+FFFD, which stands for bytes that are no text, is looked for
// in the text that is shown.
class AnswerText {
 public:
  struct Piece {
    std::string text;      // that can be shown
    bool stopped = false;  // a stop string is complete, so that the answer has ended
  };

  // `stream` must outlive this; null for an answer without text, which excludes stop strings.
  AnswerText(TextStream* stream, const std::vector<std::string>& stop);

  // Add a token.
  Piece push(std::int64_t token);

  // The rest of the text, at the end of an answer.
  Piece flush();

 private:
  // Looks for stop strings in pieces of text.
  class Shown {
   public:
    explicit Shown(std::vector<std::string> stop) : stop_(std::move(stop)) {}
    Piece push(std::string text);
    Piece end(std::string text);

   private:
    StopMatcher stop_;
    std::deque<std::string> held_;
  };

  TextStream* stream_;
  std::optional<StopMatcher> stop_;
  std::optional<Shown> shown_;
  std::deque<std::int64_t> held_;
};

}  // namespace edgekiln

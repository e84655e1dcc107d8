// How many tokens to draft: as many as give the most tokens a second by what was measured lately.
//
// The rule: a run that max_verify_tokens k drafted tokens takes s + k c seconds and gives 1 + a + a^2 + ... + a^k
// tokens, where s is the time of a plain step, c what a drafted token adds to it and a the chance that one is accepted,
// each a running average in which recent runs count more. The k of the highest quotient is drafted. Where that is 0, a
// short draft is tried again once plain steps have taken so long that it may cost no more than 3% of them.
#pragma once

#include <cstddef>

namespace edgekiln {

// Learns from the runs of one answer.
class Speculation {
 public:
  // `most`: tokens of the longest draft.
  explicit Speculation(std::size_t most) : most_(most) {}

  // Tokens to draft for the next run, at most.
  std::size_t draft_length() const;

  // A run with `drafted` tokens, of which the first `accepted` were what the model chose, took `seconds`.
  void observe(std::size_t drafted, std::size_t accepted, double seconds);

 private:
  std::size_t best_length() const;

  const std::size_t most_;
  double step_ = 0;        // seconds; 0 before the first
  double added_ = 0.25;    // by each drafted token, in steps
  double accepted_ = 0.5;  // chance of each drafted token after an accepted one
  double plain_ = 0;       // steps' worth of time since the last draft
};

}  // namespace edgekiln

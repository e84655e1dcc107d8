// Chooses the draft length with the highest expected throughput, from measurements of the current answer.
//
// A run that verifies k drafted tokens takes s + k c seconds and yields 1 + a + a^2 + ... + a^k tokens in expectation,
// where s is the time of a step without a draft, c the added time of a drafted token and a the probability that a
// drafted token is accepted. Each is an exponential moving average. The k with the highest quotient is used. If that is
// 0, a short trial draft is made again once its expected cost is at most 3% of the time of the steps since the last
// draft.
#pragma once

#include <cstddef>

namespace edgekiln {

// State of one answer.
class Speculation {
 public:
  // `max_draft`: tokens of the longest draft.
  explicit Speculation(std::size_t max_draft) : max_draft_(max_draft) {}

  // Maximum number of tokens to draft for the next run.
  std::size_t draft_length() const;

  // Record a run with `drafted` tokens, of which the first `accepted` were accepted, that took `seconds`.
  void observe(std::size_t drafted, std::size_t accepted, double seconds);

 private:
  std::size_t best_length() const;

  const std::size_t max_draft_;
  double step_ = 0;        // seconds of a step without a draft; 0 before the first
  double added_ = 0.25;    // added time of a drafted token, in steps
  double accepted_ = 0.5;  // probability that a drafted token is accepted, given that its predecessor was
  double plain_ = 0;       // steps since the last draft
};

}  // namespace edgekiln

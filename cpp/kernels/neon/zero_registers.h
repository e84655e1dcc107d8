// Assembly that sets four vector registers to 0, by their numbers.
#pragma once

#define EDGEKILN_ZERO(s0, s1, s2, s3) \
  "movi v" #s0                        \
  ".4s, #0\n\t"                       \
  "movi v" #s1                        \
  ".4s, #0\n\t"                       \
  "movi v" #s2                        \
  ".4s, #0\n\t"                       \
  "movi v" #s3 ".4s, #0\n\t"

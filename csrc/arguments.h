// What the kernel libraries refuse, whatever they run on.
#pragma once

#include "fp8bench.h"

namespace fp8bench {

// Why the sizes and choices make no sense, or null.
inline const char *complaint_about_sizes(const fp8bench_args &args) {
  if (args.tokens < 0 || args.hidden < 0) return "tokens and hidden must not be negative";
  if (args.group < -1) return "group must be 0 (per tensor), -1 (per token) or the size of a group";
  if (args.group > 0 && args.hidden % args.group != 0) return "hidden is not divisible by the group size";
  if (args.column_major && args.group <= 0) return "column-major scales exist per group only";
  if (args.dtype < FP8BENCH_BF16 || args.dtype > FP8BENCH_FP32) return "unknown dtype";
  return nullptr;
}

// Why the pointers cannot be used, or null. An empty tensor needs no elements.
inline const char *complaint_about_pointers(const fp8bench_args &args) {
  if (args.tokens * args.hidden > 0 && (args.x == nullptr || args.codes == nullptr)) return "x or codes is null";
  if (args.scales == nullptr && args.scale_in == nullptr) return "scales and scale_in are both null";
  return nullptr;
}

} // namespace fp8bench

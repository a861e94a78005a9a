// One scale for every `group` neighbouring elements of a token: a row is read for its scales and, still in the cache,
// for its codes. Doing the one after the other keeps the chain from elements to scale to codes out of the inner loop.
#include <type_traits>

#include "elements.h"
#include "families.h"
#include "instruction_sets.h"

namespace fp8bench {

template <class T> struct PerGroup {
  // The usual sizes are compiled as constants: their loops need no remainder and are unrolled.
  FP8BENCH_INLINE void run(const fp8bench_args &args) {
    switch (args.group) {
    case 64: return quantize_rows(args, std::integral_constant<int64_t, 64>());
    case 128: return quantize_rows(args, std::integral_constant<int64_t, 128>());
    default: return quantize_rows(args, args.group);
    }
  }

  // size: elements of a group, as a number or as a constant; the same below.
  template <class Size> FP8BENCH_INLINE void quantize_rows(const fp8bench_args &args, Size size) {
    for (int64_t row = 0; row < args.tokens; ++row) quantize_row(args, row, size);
  }

  template <class Size> FP8BENCH_INLINE void quantize_row(const fp8bench_args &args, int64_t row, Size size) {
    if (args.scale_in == nullptr) scale_row(args, row, size);
    encode_row(args, row, size);
  }

  template <class Size> FP8BENCH_INLINE void scale_row(const fp8bench_args &args, int64_t row, Size size) {
    const typename T::Bits *x = row_of<T>(args, row);
    const int64_t groups = args.hidden / size;
    for (int64_t group = 0; group < groups; ++group) {
      const float largest = T::value(absmax<T>(x + group * size, size));
      args.scales[place_of(args, row, group, groups)] = dynamic_scale(largest, args.scale_ub, args.ue8m0);
    }
  }

  template <class Size> FP8BENCH_INLINE void encode_row(const fp8bench_args &args, int64_t row, Size size) {
    const typename T::Bits *x = row_of<T>(args, row);
    const float *scales = args.scale_in != nullptr ? args.scale_in : args.scales;
    const int64_t groups = args.hidden / size;
    for (int64_t group = 0; group < groups; ++group) {
      uint8_t *codes = args.codes + row * args.hidden + group * size;
      encode_all<T>(x + group * size, size, scales[place_of(args, row, group, groups)], codes);
    }
  }

  // Row-major scales are (tokens, groups); column-major ones lie in memory as (groups, tokens).
  FP8BENCH_INLINE int64_t place_of(const fp8bench_args &args, int64_t row, int64_t group, int64_t groups) {
    return args.column_major ? group * args.tokens + row : row * groups + group;
  }
};

void quantize_per_group(const fp8bench_args &args) { run_for_dtype<PerGroup>(args); }

} // namespace fp8bench

// One scale for each token: a row is read for its largest magnitude and, still in the cache, for its codes.
#include "elements.h"
#include "families.h"
#include "instruction_sets.h"

namespace fp8bench {

template <class T> struct PerToken {
  FP8BENCH_INLINE void run(const fp8bench_args &args) {
    for (int64_t row = 0; row < args.tokens; ++row) quantize_row(args, row);
  }

  FP8BENCH_INLINE void quantize_row(const fp8bench_args &args, int64_t row) {
    const typename T::Bits *x = row_of<T>(args, row);
    const float scale = args.scale_in != nullptr ? args.scale_in[row] : args.scales[row] = row_scale(args, x);
    encode_all<T>(x, args.hidden, scale, args.codes + row * args.hidden);
  }

  FP8BENCH_INLINE float row_scale(const fp8bench_args &args, const typename T::Bits *x) {
    return dynamic_scale(T::value(absmax<T>(x, args.hidden)), args.scale_ub, args.ue8m0);
  }
};

void quantize_per_token(const fp8bench_args &args) { run_for_dtype<PerToken>(args); }

} // namespace fp8bench

// One scale for the whole tensor: a pass for its largest magnitude, a pass for the codes.
#include "elements.h"
#include "families.h"
#include "instruction_sets.h"

namespace fp8bench {

template <class T> struct PerTensor {
  using Bits = typename T::Bits;

  FP8BENCH_INLINE void run(const fp8bench_args &args) {
    const float scale = args.scale_in != nullptr ? *args.scale_in : *args.scales = tensor_scale(args);
    for (int64_t row = 0; row < args.tokens; ++row) encode_row(args, row, scale);
  }

  FP8BENCH_INLINE float tensor_scale(const fp8bench_args &args) {
    Bits largest = 0;
    for (int64_t row = 0; row < args.tokens; ++row) {
      const Bits magnitude = absmax<T>(row_of<T>(args, row), args.hidden);
      largest = magnitude > largest ? magnitude : largest;
    }
    return dynamic_scale(T::value(largest), args.scale_ub, args.ue8m0);
  }

  FP8BENCH_INLINE void encode_row(const fp8bench_args &args, int64_t row, float scale) {
    encode_all<T>(row_of<T>(args, row), args.hidden, scale, args.codes + row * args.hidden);
  }
};

void quantize_per_tensor(const fp8bench_args &args) { run_for_dtype<PerTensor>(args); }

} // namespace fp8bench

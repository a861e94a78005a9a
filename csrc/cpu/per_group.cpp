// One scale for every `group` neighbouring elements of a token, row by row, group by group.
#include "elements.h"
#include "families.h"
#include "instruction_sets.h"

namespace fp8bench {

template <class T> struct PerGroup {
  FP8BENCH_INLINE void run(const fp8bench_args &args) {
    for (int64_t row = 0; row < args.tokens; ++row) quantize_row(args, row);
  }

  FP8BENCH_INLINE void quantize_row(const fp8bench_args &args, int64_t row) {
    const int64_t groups = args.hidden / args.group;
    for (int64_t group = 0; group < groups; ++group) {
      // Row-major scales are (tokens, groups), column-major ones lie in memory as (groups, tokens).
      const int64_t at = args.column_major ? group * args.tokens + row : row * groups + group;
      quantize_group(args, row, group * args.group, at);
    }
  }

  // start: the group's first element in the row. at: the place of its scale.
  FP8BENCH_INLINE void quantize_group(const fp8bench_args &args, int64_t row, int64_t start, int64_t at) {
    const typename T::Bits *x = row_of<T>(args, row) + start;
    const float scale = args.scale_in != nullptr ? args.scale_in[at] : args.scales[at] = group_scale(args, x);
    encode_all<T>(x, args.group, scale, args.codes + row * args.hidden + start);
  }

  FP8BENCH_INLINE float group_scale(const fp8bench_args &args, const typename T::Bits *x) {
    return dynamic_scale(T::value(absmax<T>(x, args.group)), args.scale_ub, args.ue8m0);
  }
};

void quantize_per_group(const fp8bench_args &args) { run_for_dtype<PerGroup>(args); }

} // namespace fp8bench

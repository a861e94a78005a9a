// One kernel, compiled for several instruction sets; the best one that this CPU has is chosen at run time.
//
// A kernel is a type with `static void run(const fp8bench_args &)` that is FP8BENCH_INLINE, as is everything it calls:
// so its whole body is compiled anew inside each function below, and the compiler's vectoriser uses what that
// function may use. Nothing but the width of the vectors differs: the results are the same bits.
#pragma once

#include "../fp8bench.h"
#include "../numerics.h"
#include "elements.h"

namespace fp8bench {

using Run = void (*)(const fp8bench_args &);

template <class Kernel> void run_baseline(const fp8bench_args &args) { Kernel::run(args); }

#if defined(__x86_64__) && !defined(FP8BENCH_ONE_INSTRUCTION_SET)
#define FP8BENCH_AVX2 __attribute__((target("avx2")))
#define FP8BENCH_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))

template <class Kernel> FP8BENCH_AVX2 void run_avx2(const fp8bench_args &args) { Kernel::run(args); }
template <class Kernel> FP8BENCH_AVX512 void run_avx512(const fp8bench_args &args) { Kernel::run(args); }

inline bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

template <class Kernel> Run best_run() {
  __builtin_cpu_init();
  if (has_avx512()) return run_avx512<Kernel>;
  return __builtin_cpu_supports("avx2") ? run_avx2<Kernel> : run_baseline<Kernel>;
}
#else // what the compiler's flags allow: aarch64 has its vectors everywhere
template <class Kernel> Run best_run() { return run_baseline<Kernel>; }
#endif

// Runs `Kernel` with the best instruction set.
template <class Kernel> void run(const fp8bench_args &args) {
  static const Run best = best_run<Kernel>();
  best(args);
}

// Runs the kernel for the input's dtype, which has been checked.
template <template <class> class Kernel> void run_for_dtype(const fp8bench_args &args) {
  switch (args.dtype) {
  case FP8BENCH_BF16: return run<Kernel<Bfloat16>>(args);
  case FP8BENCH_FP16: return run<Kernel<Float16>>(args);
  case FP8BENCH_FP32: return run<Kernel<Float32>>(args);
  }
}

} // namespace fp8bench

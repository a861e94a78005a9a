// The C interface of a kernel library of fp8bench. Both libraries export it: libfp8bench_cuda (csrc/cuda) and
// libfp8bench_cpu (csrc/cpu). It knows no tensor library, so a build works with any PyTorch and two builds can be
// loaded side by side in one process under different file names.
//
// Meaning of the numbers: fp8bench/reference.py.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The functions below are all that a library shows (it is compiled with hidden visibility), so two builds in one
// process cannot take each other's symbols.
#pragma GCC visibility push(default)

// Counts changes of this header. The backend files of a build check it against the one they were written for.
#define FP8BENCH_ABI 2

enum fp8bench_dtype { FP8BENCH_BF16 = 0, FP8BENCH_FP16 = 1, FP8BENCH_FP32 = 2 };

enum fp8bench_status {
  FP8BENCH_OK = 0,
  FP8BENCH_BAD_ARGUMENT = 1,  // a value the caller must not pass
  FP8BENCH_UNSUPPORTED = 2,   // a combination this library has no kernel for
  FP8BENCH_LAUNCH_FAILED = 3, // the device refused; fp8bench_last_error() says why
};

// The CPU ignores them.
enum fp8bench_flags {
  FP8BENCH_NO_PDL = 1, // overlap no neighbour on the stream: programmatic dependent launch within a call at most
  // For measuring launch shapes: what to take instead of the dispatch table's choice, 0 for its choice.
  FP8BENCH_VECTORS_SHIFT = 8,  // bits 8-15: 16-byte vectors a thread
  FP8BENCH_THREADS_SHIFT = 16, // bits 16-23: threads a block, in warps
  // bits 24-27: blocks a cluster, up to 8; 12: 16 of them (both give way where there is no such cluster); 13: one
  // kernel whose blocks meet; 11: the same, with shared memory; 15: two kernels; per token, 14: a warp, 1: a block
  FP8BENCH_CLUSTER_SHIFT = 24,
  FP8BENCH_START_SHIFT = 28,   // bits 28-30: the successor may start 1: at once, 2: behind the loads
  FP8BENCH_MAXIMA_SHIFT = 4,   // bits 4-7: blocks that look for the largest magnitude of a large tensor, in 128s
  FP8BENCH_MAXIMA_VECTORS_SHIFT = 2, // bits 2-3: vectors a thread of such a block, 1: 1, 2: 2, 3: 4
};

// group: 0 one scale per tensor, -1 one per token, N >= 1 one per N neighbouring elements of a token.
typedef struct {
  const void *x;         // [tokens, hidden], row stride x_stride elements, last dimension contiguous
  uint8_t *codes;        // [tokens, hidden], contiguous
  float *scales;         // dynamic: written; (1,), (tokens, 1) or (tokens, groups), row- or column-major
  const float *scale_in; // static: the given scales, laid out like `scales`; null when dynamic
  const float *scale_ub; // upper bound of absmax, one float; null for none
  // fp8bench_workspace_bytes() bytes, 16-byte aligned: zero before the first call that gets them, written by nobody
  // else from then on, and not shared by calls that can run at the same time. May be null where the scales are given.
  void *workspace;
  void *stream;          // cudaStream_t; ignored on the CPU
  int64_t tokens;
  int64_t hidden;
  int64_t x_stride;
  int64_t group;
  int32_t dtype;        // fp8bench_dtype
  int32_t column_major; // scales have strides (1, tokens)
  int32_t ue8m0;        // round scales up to powers of two
  int32_t flags;        // fp8bench_flags, or'ed; 0 for the defaults
} fp8bench_args;

// Enqueues the quantization on args->stream (CPU: runs it). Neither allocates nor synchronises.
int fp8bench_quantize(const fp8bench_args *args);

// Bytes of workspace that fp8bench_quantize() needs for these args (pointers are not looked at).
int64_t fp8bench_workspace_bytes(const fp8bench_args *args);

// libfp8bench_cuda only: the floor, for measuring. Casts x with a fixed scale and computes none, so it moves the bytes
// that must move and does nothing else. variant: the launch shape, from 0 to fp8bench_floor_variants() - 1.
// x must be contiguous, and x and codes whole multiples of 16 bytes at multiples of 16.
int fp8bench_floor(const fp8bench_args *args, int variant);
int fp8bench_floor_variants(void);

int fp8bench_abi(void);
const char *fp8bench_last_error(void); // of this thread, "" if none

// Hash of the sources, compilers and flags that the library was compiled from, given as -DFP8BENCH_SOURCE_HASH="...".
// It is in the file name too; whoever loads the library compares the two. It is no commit: commits with the same
// kernels share one library.
const char *fp8bench_source_hash(void);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

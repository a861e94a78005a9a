// Enough of CUDA to run the kernels of csrc/cuda on a host, one block after another: its threads are fibers that
// take turns at every exchange. It emulates a GPU of compute capability 8.0, without clusters, hardware conversion
// and dependent launch; what it shows is that every element is read, reduced and written where it should.
#pragma once

#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static // blocks run one after the other

struct dim3 {
  unsigned x, y = 1, z = 1;
  dim3(unsigned width = 1, unsigned height = 1) : x(width), y(height) {}
};
struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;
using std::max;
using std::min;

template <class Words> void __stcs(Words *place, Words words) { *place = words; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }

inline float __uint_as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// ---- A block of fibers --------------------------------------------------------------------------------------

namespace emulation {

constexpr unsigned kThreads = 1024, kWarp = 32, kStack = 65536;

// Threads wait here until as many as belong to it have come.
struct Barrier {
  unsigned come = 0, passed = 0;
};

inline jmp_buf scheduler, fibers[kThreads]; // where each goes on
inline std::vector<char> stacks(size_t{kThreads} * kStack);
inline unsigned started; // fibers: each runs a thread of block after block
inline bool ended[kThreads];
inline Barrier block, warps[kThreads / kWarp];
inline uint32_t exchanged[kThreads];
inline const std::function<void()> *kernel;

// From one context to another by jumps, as swapcontext asks the system for the signals each time.
inline void go(jmp_buf &from, jmp_buf &to) {
  if (!_setjmp(from)) _longjmp(to, 1);
}

inline void wait(Barrier &barrier, unsigned threads) {
  const unsigned passed = barrier.passed, thread = threadIdx.x;
  if (++barrier.come == threads) barrier.come = 0, ++barrier.passed;
  while (barrier.passed == passed) go(fibers[thread], scheduler);
}

inline void wait_for_warp() { wait(warps[threadIdx.x / kWarp], kWarp); }

inline void run_threads() {
  const unsigned thread = threadIdx.x;
  for (;;) {
    (*kernel)();
    ended[thread] = true;
    go(fibers[thread], scheduler);
  }
}

// On a stack of its own, up to its first wait.
inline void start_fiber(unsigned thread) {
  static ucontext_t fiber;
  getcontext(&fiber);
  fiber.uc_stack.ss_sp = &stacks[size_t{thread} * kStack];
  fiber.uc_stack.ss_size = kStack;
  makecontext(&fiber, run_threads, 0);
  if (!_setjmp(scheduler)) setcontext(&fiber);
}

inline void run_block(const std::function<void()> &body) {
  kernel = &body;
  std::fill_n(ended, blockDim.x, false);
  for (bool running = true; running;) {
    running = false;
    for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) {
      if (ended[threadIdx.x]) continue;
      running = true;
      if (threadIdx.x == started) start_fiber(started++);
      else go(scheduler, fibers[threadIdx.x]);
    }
  }
}

// The larger of two halves without signs; of NaN and a number: NaN.
inline uint32_t larger_half(uint32_t a, uint32_t b, uint32_t infinity) {
  return a > infinity || b > infinity ? 0x7FFF : max(a, b);
}

} // namespace emulation

inline void __syncthreads() { emulation::wait(emulation::block, blockDim.x); }

inline uint32_t __shfl_xor_sync(uint32_t, uint32_t value, int distance) {
  const unsigned thread = threadIdx.x;
  emulation::exchanged[thread] = value;
  emulation::wait_for_warp();
  const uint32_t other = emulation::exchanged[thread ^ static_cast<unsigned>(distance)];
  emulation::wait_for_warp();
  return other;
}

inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t value) {
  for (unsigned distance = 1; distance < emulation::kWarp; distance *= 2)
    value = max(value, __shfl_xor_sync(mask, value, static_cast<int>(distance)));
  return value;
}

inline int __all_sync(uint32_t mask, int predicate) { return __reduce_max_sync(mask, !predicate) == 0; }

namespace fp8bench {

template <class Word> void show(Word *word, Word value) { *word = value; }
inline void add(uint64_t *word, uint64_t value) { *word += value; }
template <class Word> Word look_at(const Word *word) { return *word; }
template <class Word, size_t kWords> void look_at_some(const Word *words, Word (&seen)[kWords]) {
  std::copy(words, words + kWords, seen);
}
inline void fetch_to_cache(const void *, uint32_t = 0) {}
inline uint4 *dynamic_shared_memory() {
  static uint4 memory[1 << 14];
  return memory;
}
inline void copy_to_shared(uint4 *shared, const void *x) { memcpy(shared, x, sizeof *shared); }
inline void copy_to_shared_sparing_cache(uint4 *shared, const void *x) { copy_to_shared(shared, x); }
inline void close_copies() {}
template <int kUnderWay> void wait_for_copies() {}
inline uint32_t clock_of_multiprocessor() {
  static uint32_t now = 0;
  return now += 1000;
}

inline uint32_t larger_halves(uint32_t a, uint32_t b, uint32_t infinity) {
  const uint32_t low = emulation::larger_half(a & 0x7FFF, b & 0x7FFF, infinity);
  return low | emulation::larger_half(a >> 16 & 0x7FFF, b >> 16 & 0x7FFF, infinity) << 16;
}
inline uint32_t larger_halves_bf16(uint32_t a, uint32_t b) { return larger_halves(a, b, 0x7F80); }
inline uint32_t larger_halves_f16(uint32_t a, uint32_t b) { return larger_halves(a, b, 0x7C00); }

inline float half_to_float(uint16_t half) {
  _Float16 value;
  memcpy(&value, &half, sizeof value);
  return static_cast<float>(value);
}

} // namespace fp8bench

// ---- The runtime --------------------------------------------------------------------------------------------

using cudaError_t = int;
using cudaStream_t = void *;
enum { cudaSuccess = 0 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxThreadsPerMultiProcessor,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin
};
enum { cudaLaunchAttributeProgrammaticStreamSerialization, cudaLaunchAttributeClusterDimension };
struct cudaLaunchAttribute {
  int id;
  struct {
    int programmaticStreamSerializationAllowed;
    dim3 clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute *attrs;
  unsigned numAttrs;
};

inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
  const int values[] = {8, 2048, 8, 232448}; // few multiprocessors, so that small tensors go the ways of large ones
  *value = values[attribute];
  return cudaSuccess;
}
enum { cudaFuncAttributeNonPortableClusterSizeAllowed, cudaFuncAttributeMaxDynamicSharedMemorySize };
inline cudaError_t cudaFuncSetAttribute(const void *, int, int) { return cudaSuccess; }
inline cudaError_t cudaOccupancyMaxActiveClusters(int *clusters, const void *, const cudaLaunchConfig_t *) {
  return *clusters = 0;
}
inline cudaError_t cudaGetDevice(int *device) { return *device = 0; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char *cudaGetErrorString(cudaError_t) { return ""; }

template <class... Parameters>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Parameters... arguments) {
  gridDim = config->gridDim, blockDim = config->blockDim;
  const auto run = [&] { emulation::run_block([&] { kernel(arguments...); }); };
  for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) { // odd ones last: what they write of neighbours' stays
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x += 2) run();
    for (blockIdx.x = 1; blockIdx.x < gridDim.x; blockIdx.x += 2) run();
  }
  return cudaSuccess;
}

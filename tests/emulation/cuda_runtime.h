// Enough of CUDA to run the kernels of csrc/cuda on a host: the threads of a block are fibers that take turns at every
// exchange. Blocks run one after the other, or some at a time, if asked, in processes that take turns in a random order.
// It emulates GPUs without clusters, hardware conversion and dependent launch; what it shows is that every element is
// read, reduced and written where it should.
#pragma once

#include <semaphore.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static // a process has one block at a time

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

// ---- Copies to shared memory: they come when they are waited for, and not before ----

struct Copy {
  uint4 *to;
  const void *from;
  unsigned set;
};
inline std::deque<Copy> under_way[kThreads];
inline unsigned closed[kThreads]; // sets of copies

inline void ask_for_copy(uint4 *to, const void *from) {
  memset(to, 0xFF, sizeof *to); // NaN: whoever still reads what was there, or does already, gets a wrong maximum
  under_way[threadIdx.x].push_back({to, from, closed[threadIdx.x]});
}

inline void wait_for_copies(unsigned still_under_way) {
  auto &copies = under_way[threadIdx.x];
  for (; !copies.empty() && copies.front().set + still_under_way < closed[threadIdx.x]; copies.pop_front())
    memcpy(copies.front().to, copies.front().from, sizeof(uint4));
}

inline void run_block(const std::function<void()> &body) {
  kernel = &body;
  std::fill_n(closed, kThreads, 0);
  for (auto &copies : under_way) copies.clear();
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

// ---- Blocks at the same time ----

// What the processes share, of which one runs at any moment.
struct Crowd {
  static constexpr unsigned kMost = 64;
  sem_t turn[kMost];
  bool ended[kMost];
  unsigned blocks, room; // of them, so many run at a time; they start in order
  uint64_t random; // 0: each in its turn, whenever it could be
  uint64_t shown; // words
};
inline auto &crowd = *static_cast<Crowd *>(
    mmap(nullptr, sizeof(Crowd), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
inline bool in_crowd; // this process is a block of it
constexpr int kPatience = 60;   // seconds for one turn: another process must have died

inline unsigned random_below(unsigned bound) {
  crowd.random ^= crowd.random << 13, crowd.random ^= crowd.random >> 7, crowd.random ^= crowd.random << 17;
  return (crowd.random >> 33) % bound;
}

// To the next block, or to one of those behind it.
inline void give_turn() {
  unsigned able[Crowd::kMost], count = 0, next = 0;
  for (unsigned i = 0; i < crowd.blocks && count < crowd.room; ++i) {
    if (crowd.ended[i]) continue;
    able[count++] = i;
    next += i <= blockIdx.x;
  }
  if (count > 0) sem_post(&crowd.turn[able[(next + random_below(count)) % count]]);
}

inline void wait_for_turn() {
  timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += kPatience;
  if (sem_timedwait(&crowd.turn[blockIdx.x], &until) != 0) _exit(1);
}

// One in so many times: wherever a block has met, and, as all lanes do so, where it touches what others look at.
inline void let_others_run(unsigned times) {
  if (in_crowd && random_below(times) == 0) give_turn(), wait_for_turn();
}

inline void run_as_process(const std::function<void()> &run) {
  in_crowd = true;
  wait_for_turn();
  run();
  crowd.ended[blockIdx.x] = true;
  give_turn();
  _exit(0);
}

// All blocks of the grid; false if a process failed.
inline bool run_together(const std::function<void()> &run) {
  pid_t processes[Crowd::kMost];
  crowd.blocks = gridDim.x, crowd.shown = 0;
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
    sem_init(&crowd.turn[blockIdx.x], 1, 0), crowd.ended[blockIdx.x] = false;
    if ((processes[blockIdx.x] = fork()) == 0) run_as_process(run);
  }
  give_turn();
  bool right = true;
  for (unsigned i = 0; i < gridDim.x; ++i) {
    int status = 1;
    right = processes[i] > 0 && waitpid(processes[i], &status, 0) > 0 && status == 0 && right;
  }
  return right;
}

// ---- What is fetched into the cache before it is read ----

struct Fetch {
  uint64_t begin, bytes;
};
inline std::vector<Fetch> fetches;

// ---- Machines ----

inline int device;
// Of each: multiprocessors, threads of one, compute capability, shared memory. Few, so that small inputs go the ways of
// large ones.
constexpr int kMachines[][4] = {{8, 2048, 8, 232448}, {8, 256, 9, 232448}};

// The larger of two halves without signs; of NaN and a number: NaN.
inline uint32_t larger_half(uint32_t a, uint32_t b, uint32_t infinity) {
  return a > infinity || b > infinity ? 0x7FFF : max(a, b);
}

} // namespace emulation

inline void __syncthreads() {
  if (threadIdx.x == 0) emulation::let_others_run(2);
  emulation::wait(emulation::block, blockDim.x);
}

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

template <class Word> void show(Word *word, Word value) {
  emulation::let_others_run(emulation::kWarp);
  *word = value, ++emulation::crowd.shown;
}
inline void add(uint64_t *word, uint64_t value) {
  emulation::let_others_run(emulation::kWarp);
  *word += value;
}
template <class Word> Word look_at(const Word *word) {
  emulation::let_others_run(emulation::kWarp);
  return *word;
}
template <class Word, size_t kWords> void look_at_some(const Word *words, Word (&seen)[kWords]) {
  emulation::let_others_run(emulation::kWarp);
  std::copy(words, words + kWords, seen);
}
inline void fetch_to_cache(const void *) {}
inline void fetch_to_cache(const void *memory, uint32_t bytes) {
  emulation::fetches.push_back({reinterpret_cast<uintptr_t>(memory), bytes});
}
inline uint4 *dynamic_shared_memory() {
  static uint4 memory[1 << 14];
  return memory;
}
inline void copy_to_shared(uint4 *shared, const void *x) { emulation::ask_for_copy(shared, x); }
inline void copy_to_shared_sparing_cache(uint4 *shared, const void *x) { emulation::ask_for_copy(shared, x); }
inline void close_copies() { ++emulation::closed[threadIdx.x]; }
template <int kUnderWay> void wait_for_copies() { emulation::wait_for_copies(kUnderWay); }
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
enum { cudaSuccess = 0, cudaNotEmulated };
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

inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
  *value = emulation::kMachines[device][attribute];
  return cudaSuccess;
}
enum { cudaFuncAttributeNonPortableClusterSizeAllowed, cudaFuncAttributeMaxDynamicSharedMemorySize };
inline cudaError_t cudaFuncSetAttribute(const void *, int, int) { return cudaSuccess; }
inline cudaError_t cudaOccupancyMaxActiveClusters(int *clusters, const void *, const cudaLaunchConfig_t *) {
  return *clusters = 0;
}
inline cudaError_t cudaGetDevice(int *device) {
  *device = emulation::device;
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char *cudaGetErrorString(cudaError_t) { return "a cluster, or a block that failed"; }

template <class... Parameters>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Parameters... arguments) {
  gridDim = config->gridDim, blockDim = config->blockDim;
  for (unsigned i = 0; i < config->numAttrs; ++i)
    if (config->attrs[i].id == cudaLaunchAttributeClusterDimension) return cudaNotEmulated;
  const auto run = [&] { emulation::run_block([&] { kernel(arguments...); }); };
  if (emulation::crowd.room > 0) return emulation::run_together(run) ? cudaSuccess : cudaNotEmulated;
  for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) { // odd ones last: what they write of neighbours' stays
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x += 2) run();
    for (blockIdx.x = 1; blockIdx.x < gridDim.x; blockIdx.x += 2) run();
  }
  return cudaSuccess;
}

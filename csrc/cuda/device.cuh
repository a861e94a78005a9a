// What a block asks of the machine: reductions over warps, blocks and clusters, and the order between kernels.
#pragma once

#include <stdint.h>

namespace fp8bench {

constexpr uint32_t kAllLanes = 0xFFFFFFFF;
constexpr int kWarp = 32;
constexpr int kMostWarps = 32;  // in a block
constexpr int kMostCluster = 8; // blocks in a cluster

// Blocks of kMostWarps warps that a multiprocessor has room for.
#if defined(__CUDA_ARCH__) && ((__CUDA_ARCH__ > 800 && __CUDA_ARCH__ < 900) || __CUDA_ARCH__ >= 1200)
constexpr int kLargestBlocks = 1;
#else
constexpr int kLargestBlocks = 2;
#endif

// ---- Programmatic dependent launch --------------------------------------------------------------------------
// A kernel may start while its predecessor on the stream still runs. It must wait before it touches memory that an
// earlier kernel wrote, reads or will overwrite; every block waits, so that a kernel that is complete has complete
// predecessors. Without the launch attribute, or behind a kernel that knows nothing of it, both do nothing.

static __device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The same. `first_read` is an address that is not null: as the wait depends on it, the compiler cannot put off its
// computation until behind the wait.
static __device__ __forceinline__ void wait_for_predecessor(const void *first_read) {
#if __CUDA_ARCH__ >= 900
  asm volatile("{.reg .pred p;\n"
               "setp.ne.u64 p, %0, 0;\n"
               "@p griddepcontrol.wait;}" ::"l"(first_read)
               : "memory");
#endif
}

// Lets the successor start as soon as a thread of every block has come here or all have ended. It still waits for this
// kernel's end.
static __device__ __forceinline__ void let_successor_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Where a kernel does so. kAtOnce is before the wait, so a successor that reads anything before its own wait must not
// follow. kAlone is for launches without the attribute: nowhere, and without a wait, which costs even if it has nothing
// to wait for. A parameter of the template, not of the launch: a choice at run time stands before the loads.
enum class Start { kAtOnce, kBehindLoads, kAlone };
constexpr int kStarts = 3;

template <Start kChosen, Start kHere> static __device__ __forceinline__ void let_successor_start_at() {
  if constexpr (kChosen == kHere) let_successor_start();
}

// Before compute capability 9.0 nothing overlaps and all are alone: kernels of the other starts are compiled empty.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
template <Start kChosen> constexpr bool kRunsHere = kChosen == Start::kAlone;
#else
template <Start kChosen> constexpr bool kRunsHere = true;
#endif

template <Start kChosen> static __device__ __forceinline__ void wait_unless_alone(const void *first_read) {
  if constexpr (kChosen != Start::kAlone) wait_for_predecessor(first_read);
}

// ---- Maxima of unsigned integers ----------------------------------------------------------------------------

// Over the `kLanes` neighbouring lanes (a power of two) that this one is among; all lanes of the warp call it.
// kQuickly: one reduction of the warp for each such team, all on their way at once, in place of one exchange behind the
// other. Sooner done, but more to do for teams of less than 16.
template <int kLanes, bool kQuickly = false> static __device__ __forceinline__ uint32_t max_of_lanes(uint32_t value) {
  if constexpr (kLanes == kWarp) {
    return __reduce_max_sync(kAllLanes, value);
  } else if constexpr (kQuickly) {
    const uint32_t mine = threadIdx.x % kWarp / kLanes;
    uint32_t largest = 0;
#pragma unroll
    for (uint32_t team = 0; team < kWarp / kLanes; ++team) {
      const uint32_t of_team = __reduce_max_sync(kAllLanes, mine == team ? value : 0);
      if (mine == team) largest = of_team;
    }
    return largest;
  } else {
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2)
      value = max(value, __shfl_xor_sync(kAllLanes, value, distance));
    return value;
  }
}

// Over the block, of at most kMostWarps whole warps; all threads get it. `slots` is shared and used for this alone.
// kSeveral: blocks of one warp are rare, so nobody asks for them; then addresses are computed before the reduction.
template <bool kSeveral>
static __device__ __forceinline__ uint32_t max_of_block(uint32_t value, uint32_t (&slots)[kMostWarps]) {
  value = max_of_lanes<kWarp>(value);
  if (!kSeveral && blockDim.x == kWarp) return value;
  const uint32_t lane = threadIdx.x % kWarp;
  if (lane == 0) slots[threadIdx.x / kWarp] = value;
  __syncthreads();
  return max_of_lanes<kWarp>(lane < blockDim.x / kWarp ? slots[lane] : 0);
}

// ---- Words in memory that blocks of a running grid show each other --------------------------------------------

#ifdef __CUDACC__ // a host that emulates the kernels (tests/emulation) brings its own

static __device__ __forceinline__ void show(uint32_t *word, uint32_t value) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}

static __device__ __forceinline__ void show(uint64_t *word, uint64_t value) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

static __device__ __forceinline__ void add(uint64_t *word, uint64_t value) {
  asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

static __device__ __forceinline__ uint32_t look_at(const uint32_t *word) {
  uint32_t seen;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(word) : "memory");
  return seen;
}

static __device__ __forceinline__ uint64_t look_at(const uint64_t *word) {
  uint64_t seen;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(word) : "memory");
  return seen;
}

static __device__ __forceinline__ void look_at_some(const uint32_t *words, uint32_t (&seen)[4]) {
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(seen[0]), "=r"(seen[1]), "=r"(seen[2]), "=r"(seen[3])
               : "l"(words)
               : "memory");
}

static __device__ __forceinline__ void look_at_some(const uint64_t *words, uint64_t (&seen)[2]) {
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(seen[0]), "=l"(seen[1]) : "l"(words) : "memory");
}

static __device__ __forceinline__ void fetch_to_cache(const void *memory) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(memory));
}

#endif

#if __CUDA_ARCH__ >= 900

static __device__ __forceinline__ uint32_t cluster_number() { // in the grid, which is one-dimensional
  uint32_t number;
  asm("mov.u32 %0, %%clusterid.x;" : "=r"(number));
  return number;
}

static __device__ __forceinline__ uint32_t cluster_rank() { // of this block in its cluster
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Tells the others that this block runs; orders no memory.
static __device__ __forceinline__ void cluster_announce() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

// Makes what this block wrote visible to the others that wait.
static __device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

static __device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Stores `value` to where `slot`, shared memory of this block, lies in the block `rank` of the cluster.
static __device__ __forceinline__ void store_in_block(uint32_t rank, uint32_t *slot, uint32_t value) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(slot));
  asm volatile("{.reg .b32 there;\n"
               "mapa.shared::cluster.u32 there, %0, %1;\n"
               "st.shared::cluster.u32 [there], %2;}" ::"r"(address),
               "r"(rank), "r"(value)
               : "memory");
}

// Over a cluster of `blocks` blocks; all threads get it. Call cluster_announce() before: the others must know that this
// block's shared memory exists. One warp writes its block's maximum to all blocks, so one more barrier is enough.
static __device__ __forceinline__ uint32_t max_of_cluster(uint32_t value, uint32_t blocks,
                                                          uint32_t (&slots)[kMostWarps]) {
  __shared__ uint32_t of_blocks[kMostCluster];
  const uint32_t lane = threadIdx.x % kWarp;
  value = max_of_block<true>(value, slots);
  cluster_wait();
  if (threadIdx.x < blocks) store_in_block(threadIdx.x, &of_blocks[cluster_rank()], value);
  cluster_arrive();
  cluster_wait();
  return max_of_lanes<kWarp>(lane < blocks ? of_blocks[lane] : 0);
}

#endif

} // namespace fp8bench

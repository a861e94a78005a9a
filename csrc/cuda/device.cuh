// What a block asks of the machine: reductions over warps, blocks and clusters, and the order between kernels.
#pragma once

#include <stdint.h>

namespace fp8bench {

constexpr uint32_t kAllLanes = 0xFFFFFFFF;
constexpr int kWarp = 32;
constexpr int kMostWarps = 32; // in a block

// Blocks of a cluster: what every machine has that has clusters, and what some have.
constexpr unsigned kCluster = 8, kMostCluster = 16;

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
// to wait for. kFetching is kAtOnce, and before the wait the first blocks fetch what they will load into the L2: that
// is no access, it reads nothing, and what the predecessor still writes is written there. A parameter of the template,
// not of the launch: a choice at run time stands before the loads.
enum class Start { kAtOnce, kBehindLoads, kAlone, kFetching };
constexpr int kStarts = 3; // of all kernels; few are kFetching

template <Start kChosen, Start kHere> static __device__ __forceinline__ void let_successor_start_at() {
  if constexpr (kHere == (kChosen == Start::kFetching ? Start::kAtOnce : kChosen)) let_successor_start();
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

// The same of `bytes` bytes, a multiple of 16, from a boundary of 16 on; compute capability 9.0 and above.
static __device__ __forceinline__ void fetch_to_cache(const void *memory, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(memory), "r"(bytes));
#endif
}

static __device__ __forceinline__ uint32_t clock_of_multiprocessor() { // cycles
  uint32_t now;
  asm volatile("mov.u32 %0, %%clock;" : "=r"(now)::"memory");
  return now;
}

// ---- Copies to shared memory that are not waited for ----------------------------------------------------------

extern __shared__ uint4 dynamic_shared[];
static __device__ __forceinline__ uint4 *dynamic_shared_memory() { return dynamic_shared; }

// 16 bytes.
static __device__ __forceinline__ void copy_to_shared(uint4 *shared, const void *x) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(x) : "memory");
}

// The same, and the L2 need not keep it.
static __device__ __forceinline__ void copy_to_shared_sparing_cache(uint4 *shared, const void *x) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  uint64_t first;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(first));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(address), "l"(x), "l"(first)
               : "memory");
}

// What this thread copied since the last time is a set of copies.
static __device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most kUnderWay of them have not come.
template <int kUnderWay> static __device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kUnderWay) : "memory");
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

static __device__ __forceinline__ uint32_t shared_address(const void *shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// In the shared memory of each block of a cluster: what the blocks send to each other, and a barrier (mbarrier) that
// counts the bytes that have arrived.
struct Mailbox {
  uint64_t arrived;
  uint32_t letters[kMostCluster]; // of each block
};

// Expects a letter from each of `blocks` blocks, and tells the others that they may send theirs.
static __device__ __forceinline__ void open_mailbox(Mailbox &mailbox, uint32_t blocks) {
  if (threadIdx.x == 0) {
    const uint32_t arrived = shared_address(&mailbox.arrived), bytes = blocks * sizeof(uint32_t);
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(arrived) : "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(arrived), "r"(bytes) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncwarp();
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

// Until all mailboxes of the cluster are open.
static __device__ __forceinline__ void wait_for_mailboxes() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Sends `value` to the block `rank` of the cluster: to where `letter` and `mailbox`, of this block, are in that one.
static __device__ __forceinline__ void send(uint32_t rank, Mailbox &mailbox, uint32_t &letter, uint32_t value) {
  asm volatile("{.reg .b32 there, arrived;\n"
               "mapa.shared::cluster.u32 there, %0, %2;\n"
               "mapa.shared::cluster.u32 arrived, %1, %2;\n"
               "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [there], %3, [arrived];}" ::"r"(
                   shared_address(&letter)),
               "r"(shared_address(&mailbox.arrived)), "r"(rank), "r"(value)
               : "memory");
}

static __device__ __forceinline__ void wait_for_letters(Mailbox &mailbox) {
  uint32_t all = 0;
  while (all == 0)
    asm volatile("{.reg .pred all;\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 all, [%1], 0;\n"
                 "selp.u32 %0, 1, 0, all;}"
                 : "=r"(all)
                 : "r"(shared_address(&mailbox.arrived))
                 : "memory");
}

// Over a cluster of `blocks` blocks; all threads get it. open_mailbox() was called before. A letter says by itself that
// it is there, so nobody waits for a barrier of the cluster; and no block ends before it has those of all, so none
// sends to a block that is gone.
static __device__ __forceinline__ uint32_t max_of_cluster(uint32_t value, uint32_t blocks, Mailbox &mailbox,
                                                          uint32_t (&slots)[kMostWarps]) {
  const uint32_t lane = threadIdx.x % kWarp;
  value = max_of_block<true>(value, slots);
  wait_for_mailboxes();
  if (threadIdx.x < blocks) send(threadIdx.x, mailbox, mailbox.letters[cluster_rank()], value);
  wait_for_letters(mailbox);
  return max_of_lanes<kWarp>(lane < blocks ? mailbox.letters[lane] : 0);
}

#endif

} // namespace fp8bench

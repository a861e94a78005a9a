// One scale for every segment: `length` neighbouring elements of a token (a group, or the whole token).
//
// By how many threads share a segment: some lanes of a warp, a block or cluster, or a block that passes twice over a
// segment too long for its registers. All but the last read every element once, keep it in registers, agree on the
// largest magnitude, and write scale and codes. Lanes and blocks have a form for the usual case, with half as many
// instructions: large inputs are bound by those.
#pragma once

#include <type_traits>

#include "device.cuh"
#include "elements.cuh"
#include "sizes.cuh"

namespace fp8bench {

// Where segments and scales lie. Segment g of token t is number t * groups + g. What the usual case needs comes first:
// a kernel's parameters begin 16 bytes into a line of 64, and a second line is one more miss before the first load.
struct Segments {
  const void *x;
  uint8_t *codes;
  float *scales;   // written, unless `scale_in` has them
  uint32_t last;   // segment
  uint32_t teams;  // of a block: sets of lanes that share a segment
  uint32_t tokens;
  uint32_t length; // elements
  uint32_t packs;  // of a segment, at most
  Size groups;     // of a token
  bool ue8m0;
  const float *scale_in; // or null
  const float *scale_ub; // or null
  int64_t x_stride;      // elements between tokens
  int64_t scale_stride;  // column-major: between groups; 0: row-major
  uint32_t fetching;     // blocks that fetch: those that the machine holds at once
};

// What a kernel is compiled for. kAny: everything. The others: the usual case, in which many instructions are spared:
// dynamic scales without bound that are no powers of two, tokens one behind the other, fewer than 2^31 packs. kRows:
// row-major scales. kColumns: column-major ones; a warp takes the same group of neighbouring tokens. kColumnPairs: the
// same, of two groups that lie side by side. kOdd: row-major scales of segments that begin and end anywhere.
enum class Case { kAny, kRows, kColumns, kColumnPairs, kOdd };

// Groups side by side that a block takes, of column-major scales; 0 for row-major ones.
template <Case kCase> constexpr uint32_t kBeside = kCase == Case::kColumns ? 1 : kCase == Case::kColumnPairs ? 2 : 0;

struct Segment {
  uint32_t token, group;

  template <class Storage> __device__ __forceinline__ const Storage *x(const Segments &all) const {
    return static_cast<const Storage *>(all.x) + token * all.x_stride + static_cast<int64_t>(group) * all.length;
  }
  __device__ __forceinline__ uint8_t *codes(const Segments &all) const { return all.codes + number(all) * all.length; }
  __device__ __forceinline__ int64_t scale(const Segments &all) const {
    return all.scale_stride != 0 ? group * all.scale_stride + token : number(all);
  }

private:
  __device__ __forceinline__ int64_t number(const Segments &all) const {
    return static_cast<int64_t>(token) * all.groups.size() + group;
  }
};

static __device__ __forceinline__ Segment segment_of(uint32_t number, const Segments &all) {
  const uint32_t token = all.groups.divide(number);
  return {token, number - token * all.groups.size()};
}

// The scale of elements whose largest magnitude is `pattern`; the `writer` among the threads stores it.
template <Case kCase, class Input>
static __device__ __forceinline__ Scale computed_scale(uint32_t pattern, const Segments &all, int64_t at,
                                                       bool writer) {
  const float *bound = kCase == Case::kAny ? all.scale_ub : nullptr;
  const float scale = dynamic_scale(Input::value(pattern), bound, kCase == Case::kAny && all.ue8m0);
  if (writer) all.scales[at] = scale;
  return {scale, bound == nullptr};
}

// The packs of a thread, and the bound of those of a segment.
template <bool kAnywhere, class Pack, int kPacks>
using PacksOf = std::conditional_t<kAnywhere, PacksAnywhere<Pack, kPacks>, Packs<Pack, kPacks>>;

template <bool kUsual, bool kAnywhere, class Pack>
static __device__ __forceinline__ auto bound_of(const typename Pack::Storage *x, uint32_t length, uint32_t packs) {
  if constexpr (kAnywhere) return Anywhere<Pack>(x, length);
  else if constexpr (kUsual) return UpTo{packs - 1};
  else return Below{packs};
}

constexpr int kMostLaneThreads = 256; // of a block of quantize_by_lanes

// kLanes neighbouring lanes a segment. Row-major: a warp's teams take neighbouring segments. Column-major: they take
// the same group of neighbouring tokens, so that their scales lie side by side. What a whole warp takes as vectors may
// begin and end anywhere.
template <class Pack, int kLanes, int kPacks, Start kStart>
__global__ void __launch_bounds__(kMostLaneThreads) quantize_by_lanes(const __grid_constant__ Segments all) {
  constexpr uint32_t kTeams = kWarp / kLanes;
  constexpr bool kAnywhere = kLanes == kWarp && Pack::kElements > 1;
  let_successor_start_at<kStart, Start::kAtOnce>();
  const uint32_t warp = blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  const uint32_t team = threadIdx.x % kWarp / kLanes, lane = threadIdx.x % kLanes;
  Segment segment = segment_of(all.scale_stride != 0 ? warp : warp * kTeams + team, all);
  if (all.scale_stride != 0) segment.token = segment.token * kTeams + team;

  const bool inside = segment.token < all.tokens; // the others help to reduce
  const auto *x = segment.x<typename Pack::Storage>(all);
  const auto bound = bound_of<false, kAnywhere, Pack>(x, inside ? all.length : 0, inside ? all.packs : 0);
  PacksOf<kAnywhere, Pack, kPacks> packs;
  wait_for_predecessor(x + bound.head);
  packs.load(x, lane, kLanes, bound);
  let_successor_start_at<kStart, Start::kBehindLoads>();
  Scale scale{1.0f, false};
  if (all.scale_in == nullptr) {
    const uint32_t largest = max_of_lanes<kLanes>(packs.largest());
    scale = computed_scale<Case::kAny, typename Pack::Input>(largest, all, segment.scale(all), inside && lane == 0);
  } else if (inside) {
    scale.value = all.scale_in[segment.scale(all)];
  }
  packs.store(segment.codes(all), lane, kLanes, bound, scale);
}

// The usual case of the same. Teams beyond the last segment or token do its work once more, so that nobody asks. A
// team of less than a warp has as many lanes and packs as fit its segment. By columns, blockIdx.x is a group or a pair.
template <class Pack, int kLanes, int kPacks, Start kStart, Case kCase>
__global__ void __launch_bounds__(kMostLaneThreads) quantize_usual_by_lanes(const __grid_constant__ Segments all) {
  constexpr bool kFull = kLanes < kWarp;
  if constexpr (!kRunsHere<kStart>) return;
  let_successor_start_at<kStart, Start::kAtOnce>();
  const uint32_t lane = threadIdx.x % kLanes;
  const uint32_t team = (kBeside<kCase> > 0 ? blockIdx.y : blockIdx.x) * all.teams + threadIdx.x / kLanes;
  uint32_t number = min(team, all.last), scale_at = number; // of the segment
  if constexpr (constexpr uint32_t kGroups = kBeside<kCase>; kGroups > 0) { // a block takes neighbouring tokens
    const uint32_t token = min(team / kGroups, all.tokens - 1), group = blockIdx.x * kGroups + team % kGroups;
    number = token * all.groups.size() + group;
    scale_at = group * all.tokens + token;
  }
  const size_t offset = static_cast<size_t>(number) * (kFull ? kLanes * kPacks * Pack::kElements : all.length) +
                        (kFull ? lane * Pack::kElements : 0);
  const uint32_t first = kFull ? 0 : lane;
  const auto *x = static_cast<const typename Pack::Storage *>(all.x) + offset;
  const std::conditional_t<kFull, All, UpTo> bound{all.packs - 1};
  Packs<Pack, kPacks> packs;
  if constexpr (kFull && kStart == Start::kFetching)
    if (lane == 0 && blockIdx.y * gridDim.x + blockIdx.x < all.fetching) fetch_to_cache(x, kLanes * sizeof packs);
  wait_unless_alone<kStart>(x);
  packs.load(x, first, kLanes, bound);
  let_successor_start_at<kStart, Start::kBehindLoads>();
  constexpr bool kFew = kPacks * Pack::kElements <= 8; // elements a lane: for small inputs, where the latency shows
  constexpr bool kQuickly = kFew && kLanes >= (kStart == Start::kAlone ? 8 : 16);
  const uint32_t largest = max_of_lanes<kLanes, kQuickly>(packs.largest());
  const Scale scale = computed_scale<kCase, typename Pack::Input>(largest, all, scale_at, lane == 0);
  packs.store(all.codes + offset, first, kLanes, bound, scale);
}

// A block a segment, or, if kClusters, a cluster of blocks (dynamic scales, compute capability 9.0 and above), each
// with a share of its packs. The second bound is none for whole packs in the usual case; otherwise ptxas would spill
// for a second block a multiprocessor where packs are many, and would not save registers for one where they are few.
template <class Pack, int kPacks, Start kStart, Case kCase, bool kClusters>
__global__ void __launch_bounds__(1024, kCase == Case::kRows ? 0 : kPacks <= 2 ? kLargestBlocks : 1)
    quantize_by_blocks(const __grid_constant__ Segments all, uint32_t cluster) {
  constexpr bool kUsual = kCase != Case::kAny, kAnywhere = kCase != Case::kRows && Pack::kElements > 1;
  if constexpr ((kCase == Case::kRows || kStart == Start::kAtOnce) && !kRunsHere<kStart>) return;
  using Storage = typename Pack::Storage;
  let_successor_start_at<kStart, Start::kAtOnce>();
  __shared__ uint32_t slots[kMostWarps];
  uint32_t number = blockIdx.x, rank = 0;
#if __CUDA_ARCH__ >= 900
  if constexpr (!kClusters) cluster = 1;
  __shared__ Mailbox mailbox;
  if (cluster > 1) {
    open_mailbox(mailbox, cluster);
    number = cluster_number(), rank = cluster_rank();
  }
#endif
  const Segment segment = kUsual ? Segment{number, 0} : segment_of(number, all);
  const uint32_t first = rank * kPacks * blockDim.x + threadIdx.x;
  const size_t offset = static_cast<size_t>(number) * all.length; // in the usual case
  const Storage *x = kUsual ? static_cast<const Storage *>(all.x) + offset : segment.x<Storage>(all);
  const auto bound = bound_of<kUsual, kAnywhere, Pack>(x, all.length, all.packs);
  PacksOf<kAnywhere, Pack, kPacks> packs;
  wait_unless_alone<kStart>(x + bound.head);
  packs.load(x, first, blockDim.x, bound);
  let_successor_start_at<kStart, Start::kBehindLoads>();
  Scale scale{1.0f, false};
  if (kUsual || all.scale_in == nullptr) {
    uint32_t largest = packs.largest();
#if __CUDA_ARCH__ >= 900
    if (cluster > 1) largest = max_of_cluster(largest, cluster, mailbox, slots);
    else
#endif
      largest = max_of_block<kUsual>(largest, slots);
    const int64_t at = kUsual ? number : segment.scale(all);
    scale = computed_scale<kCase, typename Pack::Input>(largest, all, at, first == 0);
  } else {
    scale.value = all.scale_in[segment.scale(all)];
  }
  packs.store(kUsual ? all.codes + offset : segment.codes(all), first, blockDim.x, bound, scale);
}

// A block a segment, however long: it reads every element twice, the second time from a cache if it fits there.
template <class Pack, int kPacks>
__global__ void __launch_bounds__(1024) quantize_in_two_passes(const __grid_constant__ Segments all) {
  using Input = typename Pack::Input;
  __shared__ uint32_t slots[kMostWarps];
  const Segment segment = segment_of(blockIdx.x, all);
  const typename Pack::Storage *x = segment.x<typename Pack::Storage>(all);
  const Anywhere<Pack> bound(x, all.length);
  const Edge left_over = bound.edge(threadIdx.x);
  const uint32_t count = bound.packs, step = blockDim.x * kPacks;
  Packs<Pack, kPacks> packs;
  EdgePack<Input> edge;
  wait_for_predecessor();
  edge.load(x, 0, 0, left_over);
  Scale scale{1.0f, false};
  if (all.scale_in == nullptr) {
    uint32_t largest = edge.largest();
    for (uint32_t first = threadIdx.x; first < count; first += step) {
      packs.load(x + bound.head, first, blockDim.x, Below{count});
      largest = max(largest, packs.largest());
    }
    largest = max_of_block<false>(largest, slots);
    scale = computed_scale<Case::kAny, Input>(largest, all, segment.scale(all), threadIdx.x == 0);
  } else {
    scale.value = all.scale_in[segment.scale(all)];
  }
  let_successor_start();
  uint8_t *codes = segment.codes(all);
  edge.store(codes, 0, 0, left_over, scale);
  for (uint32_t first = threadIdx.x; first < count; first += step) {
    packs.load(x + bound.head, first, blockDim.x, Below{count});
    packs.store(codes + bound.head, first, blockDim.x, Below{count}, scale);
  }
}

} // namespace fp8bench

// One scale for a tensor that is too large for one cluster. One kernel, where the registers of a block a multiprocessor
// hold the tensor: quantize_by_grid. Else (but see ring.cuh) two: the first writes each block's largest magnitude to
// the workspace, the second reduces those and quantizes; blocks take tiles: up to `tile` packs of a row.
#pragma once

#include <type_traits>

#include "device.cuh"
#include "elements.cuh"
#include "meeting.cuh"
#include "sizes.cuh"

namespace fp8bench {

constexpr int kMostMaximaThreads = 512; // of a block that looks for the largest magnitude in a row

// A tensor whose tokens lie one behind the other is one long row.
struct Tensor {
  const void *x;         // here and at codes begins the first whole pack
  uint8_t *codes;
  float *scale;          // written, unless
  const float *scale_in; // the scale is given
  const float *scale_ub; // or null
  int64_t x_stride;      // elements between rows
  uint64_t row;          // packs in a row
  Size tiles;            // of a row
  uint32_t rows;
  uint32_t head, tail;   // elements before and behind the packs of a single row
  bool ue8m0;

  // What a thread of `block` takes of those two, counted from `head` elements before x: the first block takes all.
  template <class Pack> __device__ __forceinline__ Edge edge(uint32_t block) const {
    const Edge edge = edge_of(threadIdx.x, head, row * Pack::kElements, tail);
    return {edge.there && block == 0, edge.mine};
  }
};

struct Tile {
  uint64_t x, codes; // offsets in elements
  uint32_t count;    // packs
};

template <class Pack>
static __device__ __forceinline__ Tile tile_of(uint32_t number, uint32_t packs, const Tensor &tensor) {
  const uint32_t row = tensor.tiles.divide(number);
  const uint64_t first = static_cast<uint64_t>(number - row * tensor.tiles.size()) * packs; // in the row
  const uint64_t left = tensor.row > first ? tensor.row - first : 0;
  return {row * tensor.x_stride + first * Pack::kElements, (row * tensor.row + first) * Pack::kElements,
          static_cast<uint32_t>(left < packs ? left : packs)};
}

// Each block writes the pattern of the largest magnitude in its tiles, each of `tile` packs, to maxima[its number].
template <class Pack, int kPacks>
__global__ void __launch_bounds__(1024) largest_of_tiles(const __grid_constant__ Tensor tensor, uint32_t tile,
                                                         uint32_t *maxima) {
  __shared__ uint32_t slots[kMostWarps];
  const auto *x = static_cast<const typename Pack::Storage *>(tensor.x);
  const uint32_t tiles = tensor.tiles.size() * tensor.rows;
  Packs<Pack, kPacks> packs;
  EdgePack<typename Pack::Input> edge;
  wait_for_predecessor();
  let_successor_start(); // behind the wait: the second kernel reads x before its own
  edge.load(x - tensor.head, 0, 0, tensor.edge<Pack>(blockIdx.x));
  uint32_t largest = edge.largest();
  for (uint32_t number = blockIdx.x; number < tiles; number += gridDim.x) {
    const Tile mine = tile_of<Pack>(number, tile, tensor);
    for (uint32_t first = threadIdx.x; first < mine.count; first += blockDim.x * kPacks) {
      packs.load(x + mine.x, first, blockDim.x, Below{mine.count});
      largest = max(largest, packs.largest());
    }
  }
  largest = max_of_block<false>(largest, slots);
  if (threadIdx.x == 0) maxima[blockIdx.x] = largest;
}

// The usual case of the same: one row of `packs` packs, fewer than 2^31. All blocks step over it together. It lets the
// second kernel, which reads x before its own wait, start once x is complete: behind the wait, or at once if alone.
template <class Pack, int kPacks, Start kStart>
__global__ void __launch_bounds__(kMostMaximaThreads) largest_of_row(const void *x, uint32_t packs, uint32_t *maxima) {
  if constexpr (!kRunsHere<kStart>) return;
  __shared__ uint32_t slots[kMostWarps];
  const uint32_t step = blockDim.x * kPacks;
  const UpTo bound{packs - 1};
  const auto *all = static_cast<const typename Pack::Storage *>(x);
  uint32_t first = blockIdx.x * step + threadIdx.x;
  Packs<Pack, kPacks> mine;
  wait_unless_alone<kStart>(all + bound.at(first, 0) * Pack::kElements);
  let_successor_start();
  mine.load(all, first, blockDim.x, bound);
  uint32_t largest = mine.largest();
  while ((first += gridDim.x * step) < packs) {
    mine.load(all, first, blockDim.x, bound);
    largest = max(largest, mine.largest());
  }
  largest = max_of_block<false>(largest, slots);
  if (threadIdx.x == 0) maxima[blockIdx.x] = largest;
}

// Every warp by itself, four at a time: sooner than with a barrier. `count` is a multiple of 4, `values` of 16 bytes.
static __device__ __forceinline__ uint32_t max_of_array(const uint32_t *values, uint32_t count) {
  const uint4 *fours = reinterpret_cast<const uint4 *>(values);
  uint32_t largest = 0;
#pragma unroll 2
  for (uint32_t i = threadIdx.x % kWarp; i < count / 4; i += kWarp) {
    const uint4 four = fours[i];
    largest = max(max(largest, max(four.x, four.y)), max(four.z, four.w));
  }
  return max_of_lanes<kWarp>(largest);
}

// A block a tile of kPacks packs a thread. The scale is given, or comes from `maxima_count` maxima, then this kernel
// follows largest_of_tiles on the stream, which starts it only when x is complete: so it may fetch x before it waits.
// It begins at the end of the tensor, which was read last: the cache may still have it.
template <class Pack, int kPacks>
__global__ void __launch_bounds__(1024) quantize_tiles(const __grid_constant__ Tensor tensor, const uint32_t *maxima,
                                                       uint32_t maxima_count) {
  const Tile tile = tile_of<Pack>(gridDim.x - 1 - blockIdx.x, blockDim.x * kPacks, tensor);
  const auto *all = static_cast<const typename Pack::Storage *>(tensor.x), *x = all + tile.x;
  const Edge left_over = tensor.edge<Pack>(blockIdx.x);
  Packs<Pack, kPacks> packs;
  EdgePack<typename Pack::Input> edge;
  Scale scale{1.0f, false};
  if (tensor.scale_in == nullptr) {
    packs.load(x, threadIdx.x, blockDim.x, Below{tile.count});
    edge.load(all - tensor.head, 0, 0, left_over);
    let_successor_start();
    wait_for_predecessor();
    const float absmax = Pack::Input::value(max_of_array(maxima, maxima_count));
    scale = {dynamic_scale(absmax, tensor.scale_ub, tensor.ue8m0), tensor.scale_ub == nullptr};
    if (blockIdx.x == 0 && threadIdx.x == 0) *tensor.scale = scale.value;
  } else {
    wait_for_predecessor();
    scale.value = *tensor.scale_in;
    packs.load(x, threadIdx.x, blockDim.x, Below{tile.count});
    edge.load(all - tensor.head, 0, 0, left_over);
    let_successor_start();
  }
  packs.store(tensor.codes + tile.codes, threadIdx.x, blockDim.x, Below{tile.count}, scale);
  edge.store(tensor.codes - tensor.head, 0, 0, left_over, scale);
}

// The usual case of the same, behind largest_of_row: one row of `packs` packs, no bound, no power of two.
template <class Pack, int kPacks>
__global__ void __launch_bounds__(1024) quantize_row(const void *x, uint8_t *codes, float *scales, uint32_t packs,
                                                     const uint32_t *maxima, uint32_t maxima_count) {
  const uint32_t first = (gridDim.x - 1 - blockIdx.x) * blockDim.x * kPacks + threadIdx.x;
  const UpTo bound{packs - 1};
  Packs<Pack, kPacks> mine;
  mine.load(static_cast<const typename Pack::Storage *>(x), first, blockDim.x, bound);
  let_successor_start();
  wait_for_predecessor();
  const float absmax = Pack::Input::value(max_of_array(maxima, maxima_count));
  const Scale scale{dynamic_scale(absmax, nullptr, false), true};
  if (first == 0) *scales = scale.value;
  mine.store(codes, first, blockDim.x, bound, scale);
}

// A multiprocessor has room for one block of quantize_by_grid, or for two if many packs a thread leave registers for
// fewer threads.
template <int kPacks> constexpr int kMostGridThreads = kPacks <= 4 ? 1024 : 448;
template <int kPacks> constexpr int kGridBlocks = kPacks <= 4 ? 1 : 2;

// A largest magnitude fits half a word.
template <class Storage> using MeetingWord = std::conditional_t<sizeof(Storage) == 2, uint32_t, uint64_t>;

// What the blocks agreed on, and how to divide by it, computed once for all warps of a block: a multiprocessor has up
// to 32, which all come to it at the same time.
template <class Division> struct alignas(16) Agreed {
  float scale;
  Division division;
  uint32_t there;
};

static __device__ __forceinline__ bool speaks() { return threadIdx.x < kWarp; } // the warp that meets other blocks

// All blocks of the grid agree: `largest` is that of this one, part_of(block) as in show_missing(). `agreed` and
// `slots` are shared memory.
template <class Input, class Word, class Division, class Part>
static __device__ __forceinline__ Agreed<Division> agree(Meeting<Word> &meeting, uint32_t number, uint32_t largest,
                                                         uint32_t (&slots)[kMostWarps], Agreed<Division> &agreed,
                                                         float *scales, const Part &part_of) {
  if (speaks()) show_largest<Word>(meeting, number, blockIdx.x, largest);
  for (;;) {
    if (speaks()) {
      uint32_t of_all = 0;
      const bool there = look_patiently<Word>(meeting, number, of_all);
      const float scale = dynamic_scale(Input::value(of_all), nullptr, false);
      if (threadIdx.x == 0) agreed = {scale, Division(scale), there};
      if (there && blockIdx.x == 0 && threadIdx.x == 0) *scales = scale;
    }
    __syncthreads();
    const Agreed<Division> of_all = agreed;
    if (of_all.there) return of_all;
    show_missing<Word>(meeting, number, slots, part_of);
  }
}

// One kernel, in the usual case: one row of `packs` packs, fewer than 2^31, no bound, no power of two. A block's packs
// stay in its registers while the blocks agree. The successor starts behind the loads, unless all are alone. kOdd:
// `head` and `tail` elements lie before and behind the packs, which begin at x and codes; the first block takes them.
template <class Pack, int kPacks, Start kStart, bool kOdd>
__global__ void __launch_bounds__(kMostGridThreads<kPacks>, kGridBlocks<kPacks>)
    quantize_by_grid(const void *x, uint8_t *codes, float *scales, void *memory, uint32_t packs, uint16_t head,
                     uint16_t tail) {
  if constexpr (!kOdd && !kRunsHere<kStart>) return;
  using Input = typename Pack::Input;
  using Division = typename Input::DivisionByOwnScale;
  using Word = MeetingWord<typename Pack::Storage>;
  __shared__ uint32_t slots[kMostWarps];
  __shared__ Agreed<Division> agreed;
  const uint32_t share = blockDim.x * kPacks, first = blockIdx.x * share + threadIdx.x;
  auto &meeting = *static_cast<Meeting<Word> *>(memory);
  const UpTo bound{packs - 1};
  const auto *all = static_cast<const typename Pack::Storage *>(x);
  const auto edge_for = [&](uint32_t block) {
    const Edge edge = edge_of(threadIdx.x, head, size_t{packs} * Pack::kElements, tail);
    return Edge{kOdd && block == 0 && edge.there, edge.mine};
  };
  Packs<Pack, kPacks> mine;
  EdgePack<Input> edge;
  if (speaks()) look_ahead<Word>(meeting);
  wait_unless_alone<kStart>(all + bound.at(first, 0) * Pack::kElements);
  uint32_t number = 0;
  if (speaks()) number = number_of<Word>(meeting);
  mine.load(all, first, blockDim.x, bound);
  edge.load(all - head, 0, 0, edge_for(blockIdx.x));
  let_successor_start_at<kStart, Start::kBehindLoads>();
  const uint32_t largest = max_of_block<true>(max(mine.largest(), kOdd ? edge.largest() : 0), slots);
  if (threadIdx.x == kWarp) leave<Word>(meeting); // a warp that has nothing else to do
  const auto of_all = agree<Input, Word>(meeting, number, largest, slots, agreed, scales, [&](uint32_t block) {
    EdgePack<Input> edge;
    edge.load(all - head, 0, 0, edge_for(block));
    uint32_t of_thread = kOdd ? edge.largest() : 0;
#pragma unroll 1
    for (uint32_t v = 0; v < kPacks; ++v) {
      Packs<Pack, 1> one;
      one.load(all, block * share + v * blockDim.x + threadIdx.x, 0, bound);
      of_thread = max(of_thread, one.largest());
    }
    return of_thread;
  });
  const Scale scale{of_all.scale, true};
  mine.store(codes, first, blockDim.x, bound, scale, of_all.division);
  edge.store(codes - head, 0, 0, edge_for(blockIdx.x), scale, of_all.division);
  if (speaks()) renew<Word>(meeting, number);
}

} // namespace fp8bench

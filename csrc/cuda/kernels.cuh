// The compiled kernels of one input dtype, as the launcher picks them. A dtype's file instantiates them all.
#pragma once

#include "floor.cuh"
#include "ring.cuh"
#include "segments.cuh"
#include "tensor.cuh"

namespace fp8bench {

constexpr int kLaneElements[] = {8, 16, 32}; // that a thread of the kernels by lanes holds: the choices
constexpr int kLaneSingles = 16;             // where vectors do not fit
constexpr int kSingles = 8;                   // that a thread of the others holds where vectors do not fit
constexpr int kBlockVectors[] = {1, 2, 4, 8}; // that it holds where they do: the choices
constexpr int kTileVectors[] = {1, 2, 4};
constexpr int kFloorVectors[] = {1, 2, 4, 8};
constexpr int kLoopVectors = 4;               // of kernels that loop
constexpr int kFewestLanes = 2, kMostLanes = 4; // logarithms: of a segment in the usual case,
constexpr int kWarpLanes = 5;                   // if it is not a warp
constexpr int kFetchingHeld = 1;                // index into kLaneElements: of kernels for large inputs
constexpr int kUsualCases = 3;                  // kRows, kColumns, kColumnPairs: alone, and short segments

constexpr int index_of(Start start) { return static_cast<int>(start); }
constexpr int index_of(Case usual) { return static_cast<int>(usual) - 1; }

struct Kernels {
  using BySegments = void (*)(Segments);
  using ByBlocks = void (*)(Segments, uint32_t);
  using Largest = void (*)(Tensor, uint32_t, uint32_t *);
  using Tiles = void (*)(Tensor, const uint32_t *, uint32_t);
  using LargestOfRow = void (*)(const void *, uint32_t, uint32_t *);
  using ByGrid = void (*)(const void *, uint8_t *, float *, void *, uint32_t, uint16_t, uint16_t);
  using ByRing = void (*)(const void *, uint8_t *, float *, void *, uint32_t, uint32_t);
  using Row = void (*)(const void *, uint8_t *, float *, uint32_t, const uint32_t *, uint32_t);
  using Floor = void (*)(const void *, uint8_t *, uint64_t, float);

  // The usual case, with vectors.
  BySegments usual_by_lanes[kStarts][kUsualCases][2][kMostLanes + 1]; // ...; kLaneElements; logarithm of lanes
  BySegments fetching_by_lanes[2][kMostLanes + 1]; // kRows, kColumns; logarithm of lanes; kFetchingHeld, 16 bits each
  BySegments usual_by_warps[kStarts][3];                              // ...; kLaneElements
  ByBlocks usual_by_blocks[kStarts][2][4];                            // ...; clusters of blocks; kBlockVectors
  ByBlocks odd_by_blocks[2][4];                       // start at once, behind the loads; kBlockVectors
  LargestOfRow largest_of_row[2][3];                  // overlaps its predecessor, alone; kTileVectors
  Row row[3];
  ByGrid usual_by_grid[2][4];          // overlaps its neighbours, alone; kBlockVectors
  ByGrid odd_by_grid[4];
  ByRing by_ring;

  // Any case. Where there are two rows: with vectors, with single elements.
  BySegments by_lanes[3][6]; // kLaneElements, of the last 32 lanes only; 1, 2, 4, ... 32 lanes
  BySegments by_lanes_singly[6];
  ByBlocks by_blocks[4]; // kBlockVectors
  ByBlocks by_blocks_singly;
  BySegments in_two_passes[2];
  Largest largest[2];
  Tiles tiles[2][3]; // kTileVectors; single elements: the first
  Floor floor[4];    // kFloorVectors
};

template <class Pack, Start kStart, Case kCase, int kLog> constexpr void add_usual_lanes(Kernels &all) {
  auto &held = all.usual_by_lanes[index_of(kStart)][index_of(kCase)];
  held[0][kLog] = quantize_usual_by_lanes<Pack, 1 << kLog, kLaneElements[0] / Pack::kElements, kStart, kCase>;
  held[1][kLog] = quantize_usual_by_lanes<Pack, 1 << kLog, kLaneElements[1] / Pack::kElements, kStart, kCase>;
}

template <class Pack, Start kStart, Case kCase> constexpr void add_all_usual_lanes(Kernels &all) {
  add_usual_lanes<Pack, kStart, kCase, 2>(all), add_usual_lanes<Pack, kStart, kCase, 3>(all);
  add_usual_lanes<Pack, kStart, kCase, 4>(all);
}

template <class Pack, int kLog> constexpr void add_fetching_lanes(Kernels &all) {
  constexpr int kPacks = kLaneElements[kFetchingHeld] / Pack::kElements;
  all.fetching_by_lanes[0][kLog] = quantize_usual_by_lanes<Pack, 1 << kLog, kPacks, Start::kFetching, Case::kRows>;
  all.fetching_by_lanes[1][kLog] = quantize_usual_by_lanes<Pack, 1 << kLog, kPacks, Start::kFetching, Case::kColumns>;
}

template <class Pack, Start kStart, int kHeld> constexpr void add_usual_warps(Kernels &all) {
  constexpr int kPacks = kLaneElements[kHeld] / Pack::kElements;
  all.usual_by_warps[index_of(kStart)][kHeld] =
      quantize_usual_by_lanes<Pack, kWarp, kPacks, kStart, Case::kRows>;
}

template <class Pack, Start kStart, int kHeld> constexpr void add_usual_blocks(Kernels &all) {
  auto &usual = all.usual_by_blocks[index_of(kStart)];
  usual[false][kHeld] = quantize_by_blocks<Pack, kBlockVectors[kHeld], kStart, Case::kRows, false>;
  usual[true][kHeld] = quantize_by_blocks<Pack, kBlockVectors[kHeld], kStart, Case::kRows, true>;
}

template <class Pack, Start kStart> constexpr void add_usual_segments(Kernels &all) {
  add_all_usual_lanes<Pack, kStart, Case::kRows>(all), add_all_usual_lanes<Pack, kStart, Case::kColumns>(all);
  add_usual_warps<Pack, kStart, 0>(all), add_usual_warps<Pack, kStart, 1>(all), add_usual_warps<Pack, kStart, 2>(all);
  add_usual_blocks<Pack, kStart, 0>(all), add_usual_blocks<Pack, kStart, 1>(all);
  add_usual_blocks<Pack, kStart, 2>(all), add_usual_blocks<Pack, kStart, 3>(all);
}

constexpr Start kUsualStart = Start::kBehindLoads;

template <class Pack, int kLog> constexpr void add_lanes(Kernels &all) {
  all.by_lanes[0][kLog] = quantize_by_lanes<Pack, 1 << kLog, kLaneElements[0] / Pack::kElements, kUsualStart>;
  all.by_lanes[1][kLog] = quantize_by_lanes<Pack, 1 << kLog, kLaneElements[1] / Pack::kElements, kUsualStart>;
}

template <class Pack, int kHeld> constexpr void add_blocks(Kernels &all) {
  constexpr int kPacks = kBlockVectors[kHeld];
  all.by_blocks[kHeld] = quantize_by_blocks<Pack, kPacks, kUsualStart, Case::kAny, true>;
  all.odd_by_blocks[0][kHeld] = quantize_by_blocks<Pack, kPacks, Start::kAtOnce, Case::kOdd, true>;
  all.odd_by_blocks[1][kHeld] = quantize_by_blocks<Pack, kPacks, Start::kBehindLoads, Case::kOdd, true>;
}

template <class Pack, int kHeld> constexpr void add_row(Kernels &all) {
  all.largest_of_row[0][kHeld] = largest_of_row<Pack, kTileVectors[kHeld], kUsualStart>;
  all.largest_of_row[1][kHeld] = largest_of_row<Pack, kTileVectors[kHeld], Start::kAlone>;
  all.row[kHeld] = quantize_row<Pack, kTileVectors[kHeld]>;
}

template <class Pack, int kHeld> constexpr void add_grid(Kernels &all) {
  all.usual_by_grid[0][kHeld] = quantize_by_grid<Pack, kBlockVectors[kHeld], kUsualStart, false>;
  all.usual_by_grid[1][kHeld] = quantize_by_grid<Pack, kBlockVectors[kHeld], Start::kAlone, false>;
  all.odd_by_grid[kHeld] = quantize_by_grid<Pack, kBlockVectors[kHeld], kUsualStart, true>;
}

template <class Input> constexpr Kernels kernels_for() {
  using V = Vector<Input>;
  using S = Single<Input>;
  Kernels all{};
  add_usual_segments<V, Start::kAtOnce>(all), add_usual_segments<V, Start::kBehindLoads>(all);
  add_usual_segments<V, Start::kAlone>(all);
  add_usual_lanes<V, Start::kAlone, Case::kColumnPairs, 2>(all);
  add_usual_lanes<V, Start::kAlone, Case::kColumnPairs, 3>(all);
  if constexpr (sizeof(typename V::Storage) == 2)
    add_fetching_lanes<V, 2>(all), add_fetching_lanes<V, 3>(all), add_fetching_lanes<V, 4>(all);
  add_row<V, 0>(all), add_row<V, 1>(all), add_row<V, 2>(all);
  add_grid<V, 0>(all), add_grid<V, 1>(all), add_grid<V, 2>(all), add_grid<V, 3>(all);
  all.by_ring = quantize_by_ring<V>;

  add_lanes<V, 0>(all), add_lanes<V, 1>(all), add_lanes<V, 2>(all);
  add_lanes<V, 3>(all), add_lanes<V, 4>(all), add_lanes<V, 5>(all);
  all.by_lanes[2][5] = quantize_by_lanes<V, kWarp, kLaneElements[2] / V::kElements, kUsualStart>;
  all.by_lanes_singly[2] = quantize_by_lanes<S, 4, kLaneSingles, kUsualStart>; // two widths are enough
  all.by_lanes_singly[5] = quantize_by_lanes<S, kWarp, kLaneSingles, kUsualStart>;
  add_blocks<V, 0>(all), add_blocks<V, 1>(all), add_blocks<V, 2>(all), add_blocks<V, 3>(all);
  all.by_blocks_singly = quantize_by_blocks<S, kSingles, kUsualStart, Case::kAny, true>;
  all.in_two_passes[0] = quantize_in_two_passes<V, kLoopVectors>;
  all.in_two_passes[1] = quantize_in_two_passes<S, kSingles>;
  all.largest[0] = largest_of_tiles<V, kLoopVectors>, all.largest[1] = largest_of_tiles<S, kSingles>;
  all.tiles[0][0] = quantize_tiles<V, 1>, all.tiles[0][1] = quantize_tiles<V, 2>;
  all.tiles[0][2] = quantize_tiles<V, 4>, all.tiles[1][0] = quantize_tiles<S, kSingles>;
  all.floor[0] = cast_tiles<V, 1>, all.floor[1] = cast_tiles<V, 2>;
  all.floor[2] = cast_tiles<V, 4>, all.floor[3] = cast_tiles<V, 8>;
  return all;
}

extern const Kernels bf16_kernels, fp16_kernels, fp32_kernels;

} // namespace fp8bench

// The compiled kernels of one input dtype, as the launcher picks them. A dtype's file instantiates them all.
#pragma once

#include "floor.cuh"
#include "segments.cuh"
#include "tensor.cuh"

namespace fp8bench {

constexpr int kLaneElements[] = {8, 16, 32}; // that a thread of quantize_by_lanes holds: the choices
constexpr int kLaneSingles = 16;             // where vectors do not fit
constexpr int kSingles = 8;                   // that a thread of the others holds where vectors do not fit
constexpr int kBlockVectors[] = {1, 2, 4, 8}; // that it holds where they do: the choices
constexpr int kTileVectors[] = {1, 2, 4};
constexpr int kFloorVectors[] = {1, 2, 4, 8};
constexpr int kLoopVectors = 4; // of kernels that loop

struct Kernels {
  using BySegments = void (*)(Segments);
  using ByBlocks = void (*)(Segments, uint32_t);
  using Largest = void (*)(Tensor, uint32_t, uint32_t *);
  using Tiles = void (*)(Tensor, const uint32_t *, uint32_t);
  using Floor = void (*)(const void *, uint8_t *, uint64_t, float);

  // For vectors, then for single elements; where there are two starts, [0]: at once, [1]: behind the loads.
  BySegments by_lanes[2][3][6]; // kLaneElements, of the last 32 lanes only; 1, 2, 4, ... 32 lanes
  BySegments by_lanes_singly[6];
  ByBlocks by_blocks[2][4]; // kBlockVectors
  ByBlocks by_blocks_singly;
  BySegments in_two_passes[2];
  Largest largest[2];
  Tiles tiles[2][3]; // kTileVectors; single elements: the first
  Floor floor[4];    // kFloorVectors
};

template <class Pack, Start kStart, int kLog> constexpr void add_lanes(Kernels &all) {
  constexpr int kLanes = 1 << kLog;
  auto &held = all.by_lanes[static_cast<int>(kStart)];
  held[0][kLog] = quantize_by_lanes<Pack, kLanes, kLaneElements[0] / Pack::kElements, kStart>;
  held[1][kLog] = quantize_by_lanes<Pack, kLanes, kLaneElements[1] / Pack::kElements, kStart>;
}

template <class Pack, Start kStart> constexpr void add_segments(Kernels &all) {
  add_lanes<Pack, kStart, 0>(all), add_lanes<Pack, kStart, 1>(all), add_lanes<Pack, kStart, 2>(all);
  add_lanes<Pack, kStart, 3>(all), add_lanes<Pack, kStart, 4>(all), add_lanes<Pack, kStart, 5>(all);
  constexpr int kAt = static_cast<int>(kStart);
  all.by_lanes[kAt][2][5] = quantize_by_lanes<Pack, kWarp, kLaneElements[2] / Pack::kElements, kStart>;
  all.by_blocks[kAt][0] = quantize_by_blocks<Pack, kBlockVectors[0], kStart>;
  all.by_blocks[kAt][1] = quantize_by_blocks<Pack, kBlockVectors[1], kStart>;
  all.by_blocks[kAt][2] = quantize_by_blocks<Pack, kBlockVectors[2], kStart>;
  all.by_blocks[kAt][3] = quantize_by_blocks<Pack, kBlockVectors[3], kStart>;
}

template <class Input> constexpr Kernels kernels_for() {
  using V = Vector<Input>;
  using S = Single<Input>;
  constexpr Start kUsual = Start::kBehindLoads;
  Kernels all{{},
              // Two widths are enough for what is rare.
              {nullptr, nullptr, quantize_by_lanes<S, 4, kLaneSingles, kUsual>, nullptr, nullptr,
               quantize_by_lanes<S, 32, kLaneSingles, kUsual>},
              {},
              quantize_by_blocks<S, kSingles, kUsual>,
              {quantize_in_two_passes<V, kLoopVectors>, quantize_in_two_passes<S, kSingles>},
              {largest_of_tiles<V, kLoopVectors>, largest_of_tiles<S, kSingles>},
              {{quantize_tiles<V, 1>, quantize_tiles<V, 2>, quantize_tiles<V, 4>},
               {quantize_tiles<S, kSingles>, nullptr, nullptr}},
              {cast_tiles<V, 1>, cast_tiles<V, 2>, cast_tiles<V, 4>, cast_tiles<V, 8>}};
  add_segments<V, Start::kAtOnce>(all), add_segments<V, Start::kBehindLoads>(all);
  return all;
}

extern const Kernels bf16_kernels, fp16_kernels, fp32_kernels;

} // namespace fp8bench

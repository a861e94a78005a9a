// From shape to configuration: the one place where it is decided how many threads work on what. The reasons, and what
// is measured and what is not yet, stand in docs/kernels.md.
#pragma once

#include <algorithm>

#include "kernels.cuh"
#include "launch.h"

namespace fp8bench {

// ---- The table ----------------------------------------------------------------------------------------------

constexpr int kLargestLanes = 32 * kLaneElements; // elements of the longest segment that quantize_by_lanes takes
constexpr int kLaneThreads = 256, kFewLaneThreads = 64; // a block; less while there are too few blocks to fill the GPU
constexpr int kUsualVectors = 4;    // a thread, at most, of segments that also fit with fewer
constexpr unsigned kFewBlockThreads = 64; // of a block, at least, that has more vectors a thread than it must
constexpr int kOneBlock = 2048;     // vectors up to which one block quantizes a tensor, and a cluster beyond
constexpr int kTileThreads = 256;   // a block that quantizes a tile of a large tensor
constexpr int kMaximaBlocks = 2;    // a multiprocessor, that look for the largest magnitude of a large tensor
constexpr int kMostMaxima = 1024;   // blocks that do so
constexpr int kMaximaThreads = 128; // of such a block, at least

// ---- What a caller forces, for measuring --------------------------------------------------------------------

struct Forced {
  unsigned vectors, threads, cluster; // 0: not forced

  explicit Forced(const fp8bench_args &args)
      : vectors(args.flags >> FP8BENCH_VECTORS_SHIFT & 0xFF),
        threads((args.flags >> FP8BENCH_THREADS_SHIFT & 0xFF) * kWarp),
        cluster(args.flags >> FP8BENCH_CLUSTER_SHIFT & 0xF) {}
};
constexpr unsigned kForcedTwoKernels = 15;

// ---- Choices ------------------------------------------------------------------------------------------------

constexpr uint64_t divide_up(uint64_t a, uint64_t b) { return (a + b - 1) / b; }
constexpr uint64_t round_up(uint64_t a, uint64_t b) { return divide_up(a, b) * b; }

struct Choice {
  bool possible = false;
  int kernel = 0; // index into the kernel's row of `Kernels`
  Grid grid{};
};

// How many lanes share a segment of `length` elements, at most kLargestLanes.
inline Choice choose_lanes(uint64_t tokens, uint64_t groups, uint64_t length, bool vectors, bool column_major,
                           const Machine &machine, const Forced &forced) {
  int log = 0;
  while ((kLaneElements << log) < static_cast<int64_t>(length)) ++log;
  if (!vectors) log = log <= 2 ? 2 : 5; // the widths that there are
  const uint64_t teams = 32 >> log;
  const uint64_t warps = column_major ? divide_up(tokens, teams) * groups : divide_up(tokens * groups, teams);
  unsigned threads = kLaneThreads;
  while (threads > kFewLaneThreads && divide_up(warps * kWarp, threads) < uint64_t(2 * machine.multiprocessors))
    threads /= 2;
  if (forced.threads) threads = std::min<unsigned>(forced.threads, kLaneThreads);
  return {true, log, {static_cast<unsigned>(divide_up(warps * kWarp, threads)), threads}};
}

// How many packs a thread of a block holds, of `segments` segments of `packs` packs over `cluster` blocks: the fewest
// with which all threads are resident at once, as more would leave fewer loads in flight; at most kUsualVectors.
inline Choice choose_blocks(uint64_t segments, uint64_t packs, bool vectors, unsigned cluster, const Machine &machine,
                            const Forced &forced) {
  const uint64_t share = divide_up(packs, cluster);
  Choice choice;
  for (int i = 0; i < (vectors ? 4 : 1); ++i) {
    const unsigned held = vectors ? kBlockVectors[i] : kSingles;
    const uint64_t needed = std::max<uint64_t>(round_up(divide_up(share, held), kWarp), kWarp);
    if (needed > 1024 || (forced.vectors && vectors && held != forced.vectors)) continue;
    if (choice.possible && (held > kUsualVectors || needed < kFewBlockThreads)) break;
    choice = {true, i, {static_cast<unsigned>(segments * cluster), static_cast<unsigned>(needed), cluster}};
    if (segments * needed <= static_cast<uint64_t>(machine.threads)) break;
  }
  return choice;
}

// How many blocks share a tensor that they hold in registers, or 0 if it is too large for that.
inline unsigned choose_cluster(uint64_t packs, bool vectors, const Machine &machine, const Forced &forced) {
  const uint64_t capacity = 1024 * (vectors ? kBlockVectors[3] : kSingles); // packs of a block
  if (forced.cluster == kForcedTwoKernels) return 0;
  if (forced.cluster) return machine.hopper || forced.cluster == 1 ? forced.cluster : 0;
  if (!machine.hopper) return packs <= capacity ? 1 : 0;
  if (packs <= kOneBlock) return 1;
  return packs <= capacity * kMostCluster ? kMostCluster : 0;
}

// How many packs a thread of quantize_tiles holds; grid.blocks is for the caller, who knows the rows.
inline Choice choose_tiles(uint64_t packs, bool vectors, const Machine &machine, const Forced &forced) {
  const unsigned threads = forced.threads ? forced.threads : kTileThreads;
  int i = 0;
  if (vectors)
    while (i < 2 && (forced.vectors ? kTileVectors[i] != int(forced.vectors)
                                    : packs > uint64_t(machine.threads) * kTileVectors[i]))
      ++i;
  return {threads <= 1024, i, {0, threads}};
}

} // namespace fp8bench

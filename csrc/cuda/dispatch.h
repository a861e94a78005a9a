// From shape to configuration: the one place where it is decided how many threads work on what. The reasons, and what
// is measured and what is predicted, stand in docs/kernels.md.
#pragma once

#include <algorithm>

#include "kernels.cuh"
#include "launch.h"

namespace fp8bench {

// ---- The table ----------------------------------------------------------------------------------------------

constexpr int kSmallestBlocks = 512;            // elements: shorter segments always share a warp
constexpr int kMostWarpLength = 1024;           // elements of a token that a warp takes by itself, from so many
constexpr int kWarpTokens = 2;                  // tokens a multiprocessor on
constexpr int kLaneThreads[] = {128, 256};      // a block of quantize_by_lanes: of small inputs, of others
constexpr int kFewThreads = 8;                  // a thread has the fewest packs up to this fraction of the GPU
constexpr int kUsualThreads = 512;              // a block, at most, where there is a choice
constexpr int kUsualVectors = 4;                // a thread, at most, of segments that also fit with fewer
constexpr int kOneBlock = 1024;                 // vectors up to which one block takes a tensor, a cluster beyond,
constexpr int kOneCluster = 16384;              // and two kernels beyond
constexpr int kTileThreads = 512;               // a block that quantizes a tile of a large tensor
constexpr int kMaximaUnit = 128;                // blocks that look for its largest magnitude come in multiples of this
constexpr int kMostMaxima = 1024;               // such blocks at most
constexpr int kMaximaThreads = 512;             // of such a block; beyond, there are twice as many blocks

// ---- What a caller forces, for measuring --------------------------------------------------------------------

struct Forced {
  unsigned vectors, threads, cluster, start, maxima; // 0: not forced

  explicit Forced(const fp8bench_args &args)
      : vectors(args.flags >> FP8BENCH_VECTORS_SHIFT & 0xFF),
        threads((args.flags >> FP8BENCH_THREADS_SHIFT & 0xFF) * kWarp),
        cluster(args.flags >> FP8BENCH_CLUSTER_SHIFT & 0xF), start(args.flags >> FP8BENCH_START_SHIFT & 7),
        maxima(args.flags >> FP8BENCH_MAXIMA_SHIFT & 0xF) {}
};
constexpr unsigned kForcedTwoKernels = 15, kForcedWarp = 14;

// ---- Choices ------------------------------------------------------------------------------------------------

constexpr uint64_t divide_up(uint64_t a, uint64_t b) { return (a + b - 1) / b; }
constexpr uint64_t round_up(uint64_t a, uint64_t b) { return divide_up(a, b) * b; }

struct Choice {
  bool possible = false;
  int kernel = 0; // index into the kernel's row of `Kernels`
  Grid grid{};
  int held = 0; // quantize_by_lanes: index into kLaneElements
};

// Sizes of inputs, in elements, by what the machine holds: on 132 multiprocessors, small is up to 67,584, some up to
// 135,168, large above 1,081,344.
inline bool is_small(uint64_t elements, const Machine &machine) { return elements <= uint64_t(machine.threads) / 4; }
inline bool is_some(uint64_t elements, const Machine &machine) { return elements <= uint64_t(machine.threads) / 2; }
inline bool is_large(uint64_t elements, const Machine &machine) { return elements > uint64_t(machine.threads) * 4; }

// When the successor may start: at once behind small inputs, and behind groups of large ones.
inline Start choose_start(uint64_t elements, bool groups, const Machine &machine, const Forced &forced) {
  if (forced.start) return forced.start == 1 ? Start::kAtOnce : Start::kBehindLoads;
  return is_small(elements, machine) || (groups && is_large(elements, machine)) ? Start::kAtOnce : Start::kBehindLoads;
}

// Whether lanes of one warp share a segment of `length` elements; else a block does.
inline bool choose_warp(uint64_t segments, uint64_t length, bool vectors, const Machine &machine,
                        const Forced &forced) {
  if (length <= kSmallestBlocks || !vectors) return length <= kSmallestBlocks;
  if (length > uint64_t(kMostWarpLength)) return false;
  if (forced.cluster) return forced.cluster == kForcedWarp;
  return segments >= uint64_t(kWarpTokens * machine.multiprocessors);
}

// How many elements a lane holds: 8 of some, 16 of more, 32 where a segment would not fit a warp otherwise.
inline int choose_held(uint64_t elements, uint64_t length, unsigned vector, const Machine &machine,
                       const Forced &forced) {
  int held = is_some(elements, machine) ? 0 : 1;
  for (int i = 0; i < 2; ++i)
    if (forced.vectors * vector == unsigned(kLaneElements[i])) held = i;
  while (uint64_t(kLaneElements[held]) * kWarp < length) ++held;
  return held;
}

// How many lanes share a segment of `length` elements, `vector` to a vector or 1.
inline Choice choose_lanes(uint64_t tokens, uint64_t groups, uint64_t length, unsigned vector, bool column_major,
                           const Machine &machine, const Forced &forced) {
  const int held = vector > 1 ? choose_held(tokens * groups * length, length, vector, machine, forced) : 0;
  const uint64_t elements = vector > 1 ? kLaneElements[held] : kLaneSingles;
  int log = 0;
  while (elements << log < length) ++log;
  if (vector == 1) log = log <= 2 ? 2 : 5; // the widths that there are
  const uint64_t teams = 32 >> log;
  const uint64_t warps = column_major ? divide_up(tokens, teams) * groups : divide_up(tokens * groups, teams);
  const unsigned usual = kLaneThreads[!is_small(tokens * groups * length, machine)];
  const uint64_t most = forced.threads ? std::min<unsigned>(forced.threads, kMostLaneThreads) : usual;
  const unsigned threads = static_cast<unsigned>(std::min<uint64_t>(most, warps * kWarp));
  return {true, log, {static_cast<unsigned>(divide_up(warps * kWarp, threads)), threads}, held};
}

// How many packs a thread of a block holds, of `segments` segments of `packs` packs over `cluster` blocks: the fewest
// with which the blocks are small and few threads in all; at most kUsualVectors.
inline Choice choose_blocks(uint64_t segments, uint64_t packs, bool vectors, unsigned cluster, const Machine &machine,
                            const Forced &forced) {
  const uint64_t share = divide_up(packs, cluster);
  Choice choice;
  for (int i = 0; i < (vectors ? 4 : 1); ++i) {
    const unsigned held = vectors ? kBlockVectors[i] : kSingles;
    const uint64_t needed = std::max<uint64_t>(round_up(divide_up(share, held), kWarp), kWarp);
    if (needed > 1024 || (forced.vectors && vectors && held != forced.vectors)) continue;
    if (choice.possible && held > kUsualVectors) break;
    choice = {true, i, {static_cast<unsigned>(segments * cluster), static_cast<unsigned>(needed), cluster}};
    if (needed <= kUsualThreads && segments * needed <= uint64_t(machine.threads) / kFewThreads) break;
  }
  return choice;
}

// How many blocks share a tensor that they hold in registers, or 0 if it is too large for that.
inline unsigned choose_cluster(uint64_t packs, bool vectors, const Machine &machine, const Forced &forced) {
  const uint64_t one_block = vectors ? kOneBlock : kOneBlock / 2;
  if (forced.cluster == kForcedTwoKernels) return 0;
  const unsigned wanted = std::min<unsigned>(forced.cluster, kMostCluster);
  if (forced.cluster) return machine.hopper || wanted == 1 ? wanted : 0;
  if (packs <= one_block) return 1;
  return machine.hopper && packs <= kOneCluster ? kMostCluster : 0;
}

// How many packs a thread of quantize_tiles holds; grid.blocks is for the caller, who knows the rows.
inline Choice choose_tiles(uint64_t packs, bool vectors, const Machine &machine, const Forced &forced) {
  const unsigned threads = forced.threads ? forced.threads : kTileThreads;
  int i = 0;
  if (vectors) i = packs <= uint64_t(machine.threads) / 2 ? 0 : 2;
  for (int other = 0; vectors && other < 3; ++other)
    if (kTileVectors[other] == int(forced.vectors)) i = other;
  return {threads <= 1024, i, {0, threads}};
}

// Blocks and threads of largest_of_tiles, and the packs of a tile, all tiles alike.
struct MaximaChoice {
  Grid grid;
  uint64_t tile;
};

inline MaximaChoice choose_maxima(uint64_t rows, uint64_t row, uint64_t held, const Machine &machine,
                                  const Forced &forced) {
  const unsigned unit = std::max(machine.multiprocessors / kMaximaUnit, 1) * kMaximaUnit;
  const bool few = rows * row <= uint64_t{unit} * kMaximaThreads;
  const unsigned wanted = forced.maxima ? forced.maxima * kMaximaUnit : few ? unit : 2 * unit;
  const unsigned blocks = std::min<unsigned>(wanted, kMostMaxima);
  const uint64_t per_row = divide_up(blocks, rows), share = divide_up(row, per_row);
  const uint64_t most = share <= kMaximaThreads ? kMaximaThreads : 1024;
  const uint64_t threads = std::clamp<uint64_t>(round_up(share, kWarp), kWarp, most);
  const uint64_t steps = std::max<uint64_t>(divide_up(share, threads * held), 1);
  return {{blocks, static_cast<unsigned>(threads)}, std::max<uint64_t>(divide_up(row, per_row * steps), 1)};
}

} // namespace fp8bench

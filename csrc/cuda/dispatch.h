// From shape to configuration: the one place where it is decided how many threads work on what. The reasons, and what
// is measured and what is predicted, stand in docs/kernels.md.
#pragma once

#include <algorithm>

#include "kernels.cuh"
#include "launch.h"

namespace fp8bench {

// ---- The tables ---------------------------------------------------------------------------------------------
// A row counts up to its size, in sixteenths of the threads that the machine holds: on 132 multiprocessors a sixteenth
// is 16,896. The last row counts for everything beyond. Elements are of 16 bits; one of 32 counts twice, or has a table
// of its own.

constexpr unsigned kBeyond = ~0u;

// Groups, and tokens as short: by elements in all.
struct ByLanes {
  unsigned up_to;
  int held;         // elements a lane (of 32 bits, alone: 8)
  unsigned threads; // a block
  Start rows, columns;
  bool pairs = false; // columns whose codes are less than a line of memory: two groups side by side
};
constexpr ByLanes kByLanes[] = {
    {32, 8, 128, Start::kAtOnce, Start::kAtOnce},
    {56, 16, 256, Start::kBehindLoads, Start::kBehindLoads},
    {64, 8, 256, Start::kAtOnce, Start::kAtOnce},
    {256, 16, 256, Start::kBehindLoads, Start::kAtOnce},
    {1536, 16, 256, Start::kAtOnce, Start::kAtOnce},
    {kBeyond, 16, 256, Start::kFetching, Start::kFetching}, // larger than the L2 of an H200: the beginning of x is old
};
constexpr ByLanes kWordsByLanes[] = {
    {16, 8, 128, Start::kAtOnce, Start::kAtOnce},
    {32, 16, 256, Start::kBehindLoads, Start::kBehindLoads},
    {kBeyond, 8, 256, Start::kBehindLoads, Start::kBehindLoads},
};
constexpr ByLanes kWordColumnsByLanes[] = {
    {32, 8, 128, Start::kAtOnce, Start::kAtOnce},
    {64, 8, 256, Start::kBehindLoads, Start::kBehindLoads},
    {kBeyond, 8, 256, Start::kAtOnce, Start::kAtOnce},
};
constexpr ByLanes kByLanesAlone[] = {
    {4, 8, 128, Start::kAlone, Start::kAlone, true},
    {8, 8, 256, Start::kAlone, Start::kAlone, true},
    {16, 8, 128, Start::kAlone, Start::kAlone, true},
    {32, 8, 256, Start::kAlone, Start::kAlone, true},
    {64, 8, 256, Start::kAlone, Start::kAlone},
    {kBeyond, 16, 128, Start::kAlone, Start::kAlone, true},
};

// Tokens, and tensors that a block or cluster takes: by elements in all. The fewest vectors a thread with which neither
// a block nor all blocks have too many threads. Those of all blocks do not count where calls overlap their neighbours
// and each block has a multiprocessor to itself. Behind blocks of one warp the successor always starts at once.
struct ByBlocks {
  unsigned up_to;
  unsigned vectors; // a thread, at most, where so many are enough
  unsigned threads; // a block, at most
  unsigned in_all;  // at most, in sixteenths as above
  Start start;
};
constexpr ByBlocks kByBlocks[] = {
    {8, 4, 512, 1, Start::kAtOnce},
    {16, 4, 128, 1, Start::kBehindLoads},
    {32, 4, 512, 1, Start::kBehindLoads},
    {56, 4, 448, kBeyond, Start::kBehindLoads},
    {256, 4, 448, kBeyond, Start::kAtOnce},
    {512, 4, 224, kBeyond, Start::kAtOnce},
    {kBeyond, 4, 448, kBeyond, Start::kAtOnce},
};
constexpr ByBlocks kWordsByBlocks[] = {
    {8, 4, 512, 1, Start::kAtOnce},
    {16, 4, 128, 1, Start::kBehindLoads},
    {32, 4, 512, 1, Start::kBehindLoads},
    {64, 4, 512, 4, Start::kBehindLoads},
    {128, 4, 1024, 8, Start::kBehindLoads},
    {256, 4, 512, 16, Start::kAtOnce},
    {kBeyond, 8, 224, kBeyond, Start::kAtOnce},
};
constexpr ByBlocks kByBlocksAlone[] = {
    {32, 4, 512, 1, Start::kAlone},
    {kBeyond, 4, 448, kBeyond, Start::kAlone},
};
constexpr ByBlocks kWordsByBlocksAlone[] = {
    {32, 4, 512, 1, Start::kAlone},
    {256, 4, 512, kBeyond, Start::kAlone},
    {kBeyond, 8, 224, kBeyond, Start::kAlone},
};

// Tensors that a block or a cluster takes, and tokens that a cluster does: up to so many vectors, where there are such
// clusters.
struct ByCluster {
  unsigned up_to = 0;
  unsigned blocks = 0;
  unsigned threads = 0; // a block of several, at most, where vectors allow
};
constexpr ByCluster kByCluster[] = {
    {704, 1},
    {2048, 8, 256},
    {16384, 16, 512},
    {8192, 8, 256}, // where there are no clusters of 16
};
constexpr ByCluster kByClusterAlone[] = {
    {1792, 1},
    {8192, 8, 256},
};
constexpr ByCluster kSinglesByCluster[] = { // single elements, where vectors do not fit
    {512, 1},
    {8192, 8, 256},
};

// Tensors too large for a cluster: by packs. One kernel takes them whose blocks meet, if there is a row for them with
// room on the machine for all blocks at once. Blocks have more threads where they would be too many otherwise.
struct ByGrid {
  unsigned up_to;
  int vectors;      // a thread
  unsigned threads; // a block, at least
};
constexpr ByGrid kByGrid[] = {
    {1, 2, 128},
    {8, 4, 128},
    {16, 8, 256},
    {28, 8, 448},
    {32, 4, 128},
    {64, 8, 448},
};

// Tensors that two kernels take: by packs. The one looks for the largest magnitude, the other quantizes.
struct ByTiles {
  unsigned up_to;
  unsigned units;     // of kMaximaUnit blocks: the first kernel
  int maxima_vectors; // a thread of it, at most
  int vectors;        // a thread of the second
  unsigned threads;   // a block of it
};
constexpr ByTiles kByTiles[] = {
    {1, 1, 4, 1, 256},
    {2, 1, 2, 2, 256},
    {7, 1, 2, 4, 128},
    {16, 1, 4, 2, 256},
    {32, 1, 4, 4, 128},
    {256, 2, 4, 4, 128},
    {kBeyond, 4, 4, 4, 128},
};
constexpr ByTiles kByTilesAlone[] = {
    {2, 1, 1, 2, 256},
    {8, 1, 4, 2, 128},
    {16, 2, 4, 1, 256},
    {64, 2, 4, 2, 256},
    {256, 2, 4, 4, 128},
    {kBeyond, 4, 4, 4, 128},
};

constexpr unsigned kOddAtOnce = 4;     // sixteenths as above: up to there odd sizes start at once
constexpr int kMostFewLanes = 4 * kLaneSingles; // elements: longer segments are a warp's, unless they are whole vectors
constexpr uint64_t kLine = 128;        // bytes of memory, or codes
constexpr unsigned kWordsOfVector = 4; // elements of 32 bits; of 16 bits it has 8
constexpr int kSmallestBlocks = 512;   // elements: shorter segments always share a warp
constexpr int kMostWarpLength = 1024;  // 16-bit elements of a token that a warp takes by itself, where in all
constexpr unsigned kWarpElements = 32; // there are more, in sixteenths as above, and tokens are at least
constexpr int kWarpTokens = 2;         // a multiprocessor
constexpr int kStaticBytes = 1024;     // of shared memory, beside the ring's, at most
constexpr uint64_t kMostClusters = 8;  // of a call: more tokens are faster by blocks
constexpr int kMaximaUnit = 128;          // blocks
constexpr int kMostMaxima = 1024;         // blocks that look for the largest magnitude, at most
constexpr int kMaximaThreads = 512;       // of such a block
constexpr unsigned kMostLayers = 65535;   // of a grid

// How segments, or a tensor, lie in memory. kWhole: each begins and ends between two vectors. kAnywhere: vectors of
// elements and of codes are at the same places, but they begin and end anywhere. kSingles: not even that.
enum class Fit { kSingles, kAnywhere, kWhole };

// ---- What a caller asks for: to overlap its neighbours or not; and, for measuring, a launch shape -------------

struct Forced {
  bool waits;    // for its predecessor, whether it overlaps that or not
  bool overlaps; // its neighbours
  unsigned vectors, threads, cluster, start, maxima, maxima_vectors; // 0: not forced

  Forced(const fp8bench_args &args, const Machine &machine)
      : waits(machine.hopper), overlaps(overlaps_neighbours(args, machine)),
        vectors(args.flags >> FP8BENCH_VECTORS_SHIFT & 0xFF),
        threads((args.flags >> FP8BENCH_THREADS_SHIFT & 0xFF) * kWarp),
        cluster(args.flags >> FP8BENCH_CLUSTER_SHIFT & 0xF), start(args.flags >> FP8BENCH_START_SHIFT & 7),
        maxima(args.flags >> FP8BENCH_MAXIMA_SHIFT & 0xF),
        maxima_vectors(args.flags >> FP8BENCH_MAXIMA_VECTORS_SHIFT & 3) {}
};
constexpr unsigned kForcedTwoKernels = 15, kForcedWarp = 14, kForcedGrid = 13, kForcedLargeCluster = 12,
                   kForcedRing = 11;

// ---- Choices ------------------------------------------------------------------------------------------------

constexpr uint64_t divide_up(uint64_t a, uint64_t b) { return (a + b - 1) / b; }
constexpr uint64_t round_up(uint64_t a, uint64_t b) { return divide_up(a, b) * b; }

struct Choice {
  bool possible = false;
  int kernel = 0; // index into the kernel's row of `Kernels`
  Grid grid{};
  int start = 0;     // index of the Start
  int held = 0;      // by lanes: index into kLaneElements
  unsigned fetching = 0; // by lanes: blocks that fetch before they wait
  Case usual = Case::kAny;
};

template <class Row, size_t kRows>
const Row &row_for(uint64_t size, const Row (&rows)[kRows], const Machine &machine) {
  for (const Row &row : rows)
    if (size <= uint64_t(machine.threads) * row.up_to / 16) return row;
  return rows[kRows - 1];
}

// Of the table for calls that overlap their neighbours, or of that for those that are alone.
template <class Row, size_t kRows, size_t kRowsAlone>
const Row &row_for(uint64_t size, const Row (&rows)[kRows], const Row (&alone)[kRowsAlone], const Machine &machine,
                   const Forced &forced) {
  return forced.overlaps ? row_for(size, rows, machine) : row_for(size, alone, machine);
}

inline int choose_start(Start start, const Forced &forced) {
  if (forced.start && forced.waits) return std::min(int(forced.start) - 1, index_of(Start::kBehindLoads));
  return index_of(forced.overlaps ? start : Start::kAlone);
}

// So many elements of 16 bits fit `packs` vectors, or are as many single elements.
constexpr uint64_t weight(uint64_t packs, bool vectors) { return vectors ? packs * 8 : packs; }

// Whether lanes of one warp share a segment of `length` elements, `packs` packs; else a block does.
inline bool choose_warp(uint64_t segments, uint64_t length, uint64_t packs, bool vectors, const Machine &machine,
                        const Forced &forced) {
  if (length <= kSmallestBlocks || !vectors) return length <= kSmallestBlocks;
  if (weight(packs, vectors) > uint64_t(kMostWarpLength)) return false;
  if (forced.cluster) return forced.cluster == kForcedWarp;
  const bool many = segments * weight(packs, vectors) > uint64_t(machine.threads) * kWarpElements / 16;
  return many && segments >= uint64_t(kWarpTokens * machine.multiprocessors);
}

// How many elements a lane holds, as an index into kLaneElements: 32 where a segment would not fit a warp otherwise.
inline int choose_held(int usual, uint64_t length, unsigned vector, const Forced &forced) {
  int held = usual == kLaneElements[0] ? 0 : 1;
  for (int i = 0; i < 2; ++i)
    if (forced.vectors * vector == unsigned(kLaneElements[i])) held = i;
  while (uint64_t(kLaneElements[held]) * kWarp < length) ++held;
  return held;
}

// The form of the kernel by lanes in the usual case; fits: what 2^log lanes hold is just a segment.
inline Case choose_case(int log, bool fits, bool column_major, bool pairs) {
  if (fits && log >= kFewestLanes && log <= kMostLanes)
    return !column_major ? Case::kRows : pairs ? Case::kColumnPairs : Case::kColumns;
  return log == kWarpLanes && !column_major ? Case::kRows : Case::kAny;
}

// Blocks of so many threads for segments that 2^log lanes share. Column-major: a warp takes the same group of
// neighbouring tokens; in the usual case blockIdx.x is the group or pair, and a layer as many tokens as fit a block.
inline Grid choose_lanes_grid(uint64_t tokens, uint64_t groups, int log, unsigned most, bool column_major, Case usual) {
  const uint64_t teams = 32 >> log;
  if (usual == Case::kColumns || usual == Case::kColumnPairs) {
    const uint64_t beside = usual == Case::kColumnPairs ? kBeside<Case::kColumnPairs> : kBeside<Case::kColumns>;
    const uint64_t lanes = tokens * beside << log;
    const uint64_t threads = std::min<uint64_t>(most, round_up(lanes, kWarp));
    const uint64_t layers = std::min<uint64_t>(divide_up(lanes, threads), kBeyond);
    return {static_cast<unsigned>(groups / beside), static_cast<unsigned>(threads), 1, static_cast<unsigned>(layers)};
  }
  const uint64_t warps = column_major ? divide_up(tokens, teams) * groups : divide_up(tokens * groups, teams);
  const unsigned threads = static_cast<unsigned>(std::min<uint64_t>(most, warps * kWarp));
  return {static_cast<unsigned>(divide_up(warps * kWarp, threads)), threads};
}

// How many lanes share a segment of `packs` packs of `vector` elements, or 1.
inline Choice choose_lanes(uint64_t tokens, uint64_t groups, uint64_t packs, unsigned vector, Fit fit,
                           bool column_major, bool usual, const Machine &machine, const Forced &forced) {
  const uint64_t length = packs * vector;
  const uint64_t in_all = weight(tokens * groups * packs, vector > 1);
  const bool words = vector == kWordsOfVector, words_alone = words && !forced.overlaps;
  const ByLanes &row = !words         ? row_for(in_all, kByLanes, kByLanesAlone, machine, forced)
                       : column_major ? row_for(in_all, kWordColumnsByLanes, kByLanesAlone, machine, forced)
                                      : row_for(in_all, kWordsByLanes, kByLanesAlone, machine, forced);
  const int usual_held = words_alone ? kLaneElements[0] : row.held;
  const int held = vector > 1 ? choose_held(usual_held, length, vector, forced) : 0;
  const uint64_t elements = vector > 1 ? kLaneElements[held] : kLaneSingles;
  int log = 0;
  while (elements << log < length) ++log;
  if (fit == Fit::kAnywhere) log = kWarpLanes;
  if (fit == Fit::kSingles) log = length <= kMostFewLanes ? 2 : kWarpLanes; // the widths that there are
  const bool pairs = row.pairs && !forced.start && groups % 2 == 0 && length < kLine; // compiled for kAlone only
  Case which = usual ? choose_case(log, elements << log == length, column_major, pairs) : Case::kAny;
  const unsigned most = forced.threads ? std::min<unsigned>(forced.threads, kMostLaneThreads) : row.threads;
  Grid grid = choose_lanes_grid(tokens, groups, log, most, column_major, which);
  if (grid.layers > kMostLayers) {
    which = Case::kAny;
    grid = choose_lanes_grid(tokens, groups, log, most, column_major, which);
  }
  const Start start = log == kWarpLanes ? Start::kBehindLoads : column_major ? row.columns : row.rows;
  const auto fetching = static_cast<unsigned>(divide_up(machine.threads, grid.threads)); // what the machine holds
  return {true, log, grid, choose_start(start, forced), held, fetching, which};
}

// How many packs a thread of a block holds, of `segments` segments of `packs` packs of `vector` elements, or 1. Each
// segment is shared by a cluster.
inline Choice choose_blocks(uint64_t segments, uint64_t packs, unsigned vector, bool usual, const ByCluster &cluster,
                            const Machine &machine, const Forced &forced) {
  const bool vectors = vector > 1;
  const uint64_t share = divide_up(packs, cluster.blocks), in_all = weight(segments * packs, vectors);
  const ByBlocks &row = vector == kWordsOfVector
                            ? row_for(in_all, kWordsByBlocks, kWordsByBlocksAlone, machine, forced)
                            : row_for(in_all, kByBlocks, kByBlocksAlone, machine, forced);
  const bool apart = forced.overlaps && segments <= uint64_t(machine.multiprocessors);
  const uint64_t most_in_all = apart ? kBeyond : uint64_t(machine.threads) / 16 * row.in_all;
  const bool few = in_all <= uint64_t(machine.threads) * kOddAtOnce / 16;
  Choice choice;
  for (int i = 0; i < (vectors ? 4 : 1); ++i) {
    const unsigned held = vectors ? kBlockVectors[i] : kSingles;
    const uint64_t needed = std::max<uint64_t>(round_up(divide_up(share, held), kWarp), kWarp);
    if (needed > 1024 || (forced.vectors && vectors && held != forced.vectors)) continue;
    if (choice.possible && held > row.vectors) break;
    const Grid grid{static_cast<unsigned>(segments * cluster.blocks), static_cast<unsigned>(needed), cluster.blocks};
    const Start odd = few ? Start::kAtOnce : Start::kBehindLoads;
    const Start start = !usual ? odd : needed == kWarp ? Start::kAtOnce : row.start;
    choice = {true, i, grid, choose_start(start, forced)};
    const unsigned most = cluster.blocks > 1 ? cluster.threads : row.threads;
    if (needed <= most && segments * needed <= most_in_all) break;
  }
  return choice;
}

// Of blocks of one warp, the index into kLaneElements of what a lane holds; -1 for other blocks.
inline int held_by_lanes(const Choice &choice, unsigned vector) {
  if (!choice.possible || choice.grid.threads != kWarp) return -1;
  for (int i = 0; i < 3; ++i)
    if (kLaneElements[i] == int(kBlockVectors[choice.kernel] * vector)) return i;
  return -1;
}

template <size_t kRows>
ByCluster cluster_for(uint64_t packs, const ByCluster (&rows)[kRows], const Machine &machine) {
  for (const ByCluster &row : rows)
    if (packs <= row.up_to && row.blocks <= machine.cluster) return row;
  return {};
}

// The blocks that share a tensor which they hold in registers, or a token; none if it is too large for that.
inline ByCluster choose_cluster(uint64_t packs, bool vectors, const Machine &machine, const Forced &forced) {
  if (forced.cluster > kCluster && forced.cluster != kForcedLargeCluster) return {};
  const bool large = forced.cluster == kForcedLargeCluster;
  const unsigned wanted = large ? kMostCluster : forced.cluster, threads = large ? 512 : 256;
  if (forced.cluster) return wanted <= machine.cluster ? ByCluster{kBeyond, wanted, threads} : ByCluster{};
  if (!vectors) return cluster_for(packs, kSinglesByCluster, machine);
  return forced.overlaps ? cluster_for(packs, kByCluster, machine) : cluster_for(packs, kByClusterAlone, machine);
}

// The same for each of some tokens, which one block takes where no cluster does.
inline ByCluster choose_token_cluster(uint64_t tokens, uint64_t packs, bool usual, const Machine &machine,
                                      const Forced &forced) {
  const ByCluster cluster = choose_cluster(packs, true, machine, forced);
  const bool taken = usual && cluster.blocks > 1 && (forced.cluster || tokens <= kMostClusters);
  return taken ? cluster : ByCluster{kBeyond, 1};
}

// Blocks of the one kernel of a tensor whose blocks meet, of at least two warps; as many as a multiple of kCopies.
inline Choice choose_grid_as(const ByGrid &row, uint64_t packs, const Machine &machine, const Forced &forced) {
  int i = 0;
  while (i < 3 && kBlockVectors[i] < row.vectors) ++i;
  const bool many = i == 3; // packs a thread, and so fewer threads
  const unsigned most_threads = many ? kMostGridThreads<8> : kMostGridThreads<4>;
  const int room = std::min(machine.multiprocessors * (many ? kGridBlocks<8> : kGridBlocks<4>), kMostMeeting);
  const uint64_t most_blocks = room / kCopies * kCopies, held = kBlockVectors[i];
  const uint64_t least_threads = round_up(divide_up(packs, std::max<uint64_t>(held * most_blocks, 1)), kWarp);
  const uint64_t threads = forced.threads ? forced.threads : std::max<uint64_t>(row.threads, least_threads);
  const uint64_t blocks = round_up(divide_up(packs, std::max<uint64_t>(held * threads, 1)), kCopies);
  const bool possible = threads > kWarp && threads <= most_threads && blocks <= most_blocks;
  const Grid grid{static_cast<unsigned>(blocks), static_cast<unsigned>(threads)};
  return {possible, i, grid, choose_start(Start::kBehindLoads, forced)};
}

inline Choice choose_grid(uint64_t packs, const Machine &machine, const Forced &forced) {
  const bool asked = forced.cluster == kForcedGrid;
  if (forced.cluster && !asked) return {};
  if (asked && forced.vectors) return choose_grid_as({kBeyond, int(forced.vectors), 64}, packs, machine, forced);
  for (const ByGrid &row : kByGrid) {
    if (packs > uint64_t(machine.threads) * row.up_to / 16) continue;
    if (const Choice choice = choose_grid_as(row, packs, machine, forced); choice.possible) return choice;
  }
  return {};
}

// Blocks of the one kernel of a tensor that shared memory keeps in part; taken for those that registers do not hold, up
// to so many packs.
constexpr unsigned kRingUpTo = 512; // in sixteenths as above

inline Choice choose_ring(uint64_t packs, const Machine &machine, const Forced &forced) {
  const unsigned blocks = std::min(machine.multiprocessors, kMostMeeting) / kCopies * kCopies;
  const bool usual = !forced.cluster && packs <= uint64_t(machine.threads) * kRingUpTo / 16;
  const bool room = blocks > 0 && machine.shared_bytes >= kRingBytes + kStaticBytes;
  return {room && (usual || forced.cluster == kForcedRing), 0, {blocks, kRingThreads, 1, 1, kRingBytes}};
}

inline const ByTiles &row_for_tiles(uint64_t packs, const Machine &machine, const Forced &forced) {
  return row_for(packs, kByTiles, kByTilesAlone, machine, forced);
}

// How many packs a thread of quantize_tiles holds; grid.blocks is for the caller, who knows the rows.
inline Choice choose_tiles(uint64_t packs, bool vectors, const Machine &machine, const Forced &forced) {
  const ByTiles &row = row_for_tiles(packs, machine, forced);
  const int wanted = forced.vectors ? int(forced.vectors) : row.vectors;
  int i = 0;
  while (vectors && i < 2 && kTileVectors[i] != wanted) ++i;
  return {true, i, {0, forced.threads ? forced.threads : row.threads}};
}

// Blocks that look for the largest magnitude of `packs` packs: a multiple of 4, as max_of_array wants it.
inline unsigned choose_maxima_blocks(uint64_t packs, const Machine &machine, const Forced &forced) {
  const unsigned unit = std::max(machine.multiprocessors / kMaximaUnit, 1) * kMaximaUnit;
  const unsigned units = forced.maxima ? forced.maxima : row_for_tiles(packs, machine, forced).units;
  return std::min<unsigned>(units * unit, kMostMaxima);
}

// Blocks and threads of largest_of_tiles, and the packs of a tile, all tiles alike.
struct MaximaChoice {
  Grid grid;
  uint64_t tile;
};

inline MaximaChoice choose_maxima(uint64_t rows, uint64_t row, uint64_t held, const Machine &machine,
                                  const Forced &forced) {
  const unsigned blocks = choose_maxima_blocks(rows * row, machine, forced);
  const uint64_t per_row = divide_up(blocks, rows), share = divide_up(row, per_row);
  const uint64_t most = share <= kMaximaThreads ? kMaximaThreads : 1024;
  const uint64_t threads = std::clamp<uint64_t>(round_up(share, kWarp), kWarp, most);
  const uint64_t steps = std::max<uint64_t>(divide_up(share, threads * held), 1);
  return {{blocks, static_cast<unsigned>(threads)}, std::max<uint64_t>(divide_up(row, per_row * steps), 1)};
}

// Blocks, threads and packs of largest_of_row: as few steps as the blocks allow, all blocks with the same share.
inline Choice choose_row_maxima(uint64_t packs, const Machine &machine, const Forced &forced) {
  const uint64_t most = choose_maxima_blocks(packs, machine, forced), share = divide_up(packs, most);
  const int usual = row_for_tiles(packs, machine, forced).maxima_vectors;
  const int wanted = forced.maxima_vectors ? 1 << (forced.maxima_vectors - 1) : usual;
  int i = 0;
  while (i < 2 && kTileVectors[i] != wanted) ++i;
  const uint64_t threads =
      std::clamp<uint64_t>(round_up(divide_up(share, kTileVectors[i]), kWarp), kWarp, kMaximaThreads);
  const uint64_t steps = divide_up(share, threads * kTileVectors[i]);
  const uint64_t blocks = round_up(divide_up(packs, threads * kTileVectors[i] * steps), 4);
  return {true, i, {static_cast<unsigned>(blocks), static_cast<unsigned>(threads)}};
}

} // namespace fp8bench

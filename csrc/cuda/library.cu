// libfp8bench_cuda: the C interface of ../fp8bench.h for NVIDIA GPUs of compute capability 8.0 and above.
//
// From the arguments to launches: which view of the tensor (segments, or one tensor), whether vectors fit, which
// configuration (dispatch.h), which kernel (kernels.cuh).
#include <stdio.h>

#include <iterator>

#include "../arguments.h"
#include "dispatch.h"

namespace fp8bench {
namespace {

constexpr int64_t kMostHidden = int64_t{1} << 30;   // elements of a token
constexpr int64_t kMostSegments = int64_t{1} << 30; // of a launch; more tokens take several
constexpr uint64_t kMostUsual = uint64_t{1} << 31;  // packs of a launch in the usual case
// A workspace: a word for each block of the first of two kernels, which needs no preparation; then meetings.
constexpr int64_t kMeetingOfHalves = kMostMaxima * int64_t{sizeof(uint32_t)};
constexpr int64_t kMeetingOfWords = kMeetingOfHalves + int64_t{sizeof(Meeting<MeetingWord<uint16_t>>)};
constexpr int64_t kWorkspaceBytes = kMeetingOfWords + int64_t{sizeof(Meeting<MeetingWord<uint32_t>>)};
constexpr int kFloorThreads[] = {64, 128, 256, 512, 1024};

thread_local char last_error[256] = "";

int refuse(fp8bench_status status, const char *reason) {
  snprintf(last_error, sizeof last_error, "%s", reason);
  return status;
}

int finish(cudaError_t error) {
  if (error == cudaSuccess) {
    last_error[0] = 0;
    return FP8BENCH_OK;
  }
  cudaGetLastError(); // so that nobody finds it later and takes it for their own
  return refuse(FP8BENCH_LAUNCH_FAILED, cudaGetErrorString(error));
}

int element_bytes(const fp8bench_args &args) { return args.dtype == FP8BENCH_FP32 ? 4 : 2; }

const Kernels &kernels_of(const fp8bench_args &args) {
  return args.dtype == FP8BENCH_BF16 ? bf16_kernels : args.dtype == FP8BENCH_FP16 ? fp16_kernels : fp32_kernels;
}

bool is_contiguous(const fp8bench_args &args) { return args.tokens <= 1 || args.x_stride == args.hidden; }

int64_t elements_of_vector(const fp8bench_args &args) { return 16 / element_bytes(args); }

int64_t elements_of_pack(const fp8bench_args &args, Fit fit) {
  return fit == Fit::kSingles ? 1 : elements_of_vector(args);
}

// Elements between x and the vector boundary before it.
int64_t elements_into_vector(const fp8bench_args &args) {
  return reinterpret_cast<uintptr_t>(args.x) / element_bytes(args) % elements_of_vector(args);
}

// How pieces of `length` elements, at multiples of it in a token, fit vectors.
Fit fit_of(const fp8bench_args &args, int64_t length) {
  const int64_t elements = elements_of_vector(args), x = elements_into_vector(args);
  const int64_t codes = reinterpret_cast<uintptr_t>(args.codes) % static_cast<uintptr_t>(elements);
  const bool alike = is_contiguous(args) || (args.x_stride - args.hidden) % elements == 0; // in all tokens
  if (x != codes || !alike) return Fit::kSingles;
  return x == 0 && length % elements == 0 ? Fit::kWhole : Fit::kAnywhere;
}

// Kernels wait on an address that is not null (device.cuh), also where an empty tensor gives them nothing to read.
const void *first_read(const fp8bench_args &args) { return args.x != nullptr ? args.x : args.scales; }

// ---- One scale for every segment of a token -----------------------------------------------------------------

// A launch over `tokens` tokens from `token` on.
Segments segments_of(const fp8bench_args &args, Fit fit, int64_t token, int64_t tokens) {
  const int64_t length = args.group > 0 ? args.group : args.hidden;
  const int64_t groups = args.group > 0 ? args.hidden / args.group : 1;
  const int64_t scale = token * (args.column_major ? 1 : groups);
  Segments all{};
  all.x = static_cast<const char *>(first_read(args)) + token * args.x_stride * element_bytes(args);
  all.codes = args.codes + token * args.hidden;
  all.scales = args.scales + scale;
  all.scale_in = args.scale_in == nullptr ? nullptr : args.scale_in + scale;
  all.scale_ub = args.scale_ub;
  all.x_stride = args.x_stride;
  all.scale_stride = args.column_major && args.tokens > 1 ? args.tokens : 0; // of one token, both orders are one
  all.tokens = static_cast<uint32_t>(tokens);
  all.length = static_cast<uint32_t>(length);
  all.packs = static_cast<uint32_t>(length / elements_of_pack(args, fit));
  all.last = static_cast<uint32_t>(tokens * groups - 1);
  all.groups = Size(static_cast<uint32_t>(groups));
  all.ue8m0 = args.ue8m0;
  return all;
}

// Whether the kernels for the usual case will do, which know no options, gaps, single elements or 64-bit offsets; those
// of whole vectors, or of odd sizes (Fit::kAnywhere).
bool is_usual(const fp8bench_args &args, Fit fit, Fit wanted = Fit::kWhole) {
  const bool options = args.scale_in != nullptr || args.scale_ub != nullptr || args.ue8m0 != 0;
  const uint64_t packs = args.tokens * args.hidden / elements_of_vector(args);
  return fit == wanted && !options && is_contiguous(args) && packs < kMostUsual && packs > 0;
}

Kernels::BySegments kernel_by_lanes(const Choice &choice, Fit fit, const Kernels &kernels) {
  if (choice.usual == Case::kAny && fit == Fit::kSingles) return kernels.by_lanes_singly[choice.kernel];
  if (choice.usual == Case::kAny) return kernels.by_lanes[choice.held][choice.kernel];
  if (choice.kernel == kWarpLanes) return kernels.usual_by_warps[choice.start][choice.held];
  const int usual = index_of(choice.usual);
  const bool fetching = choice.start == index_of(Start::kFetching);
  if (fetching && choice.held == kFetchingHeld) return kernels.fetching_by_lanes[usual][choice.kernel];
  const int start = fetching ? index_of(Start::kAtOnce) : choice.start;
  return kernels.usual_by_lanes[start][usual][choice.held][choice.kernel];
}

cudaError_t launch_by_lanes(Segments all, const Choice &choice, Fit fit, const Kernels &kernels, const Stream &stream) {
  all.teams = choice.grid.threads >> choice.kernel, all.fetching = choice.fetching;
  return launch(kernel_by_lanes(choice, fit, kernels), choice.grid, stream, all);
}

// The kernel for all but the usual case of whole vectors.
Kernels::ByBlocks other_by_blocks(const fp8bench_args &args, const Choice &choice, Fit fit) {
  const Kernels &kernels = kernels_of(args);
  if (fit == Fit::kSingles) return kernels.by_blocks_singly;
  const bool odd = is_usual(args, fit, Fit::kAnywhere) && !args.column_major;
  return odd ? kernels.odd_by_blocks[choice.start != index_of(Start::kAtOnce)][choice.kernel]
             : kernels.by_blocks[choice.kernel];
}

cudaError_t launch_segments(const fp8bench_args &args, const Segments &all, Fit fit, const Machine &machine) {
  const Kernels &kernels = kernels_of(args);
  const Stream stream(args, machine);
  const Forced forced(args, machine);
  const uint64_t segments = uint64_t{all.tokens} * all.groups.size();
  const bool usual = is_usual(args, fit), columns = all.scale_stride != 0;
  const bool vectors = fit != Fit::kSingles;
  if (choose_warp(segments, all.length, all.packs, vectors, machine, forced)) {
    const Choice choice = choose_lanes(all.tokens, all.groups.size(), all.packs, elements_of_pack(args, fit), fit,
                                       columns, usual, machine, forced);
    return launch_by_lanes(all, choice, fit, kernels, stream);
  }
  const unsigned vector = elements_of_pack(args, fit);
  const bool rows = usual && !columns;
  const ByCluster cluster = choose_token_cluster(segments, all.packs, rows, machine, forced);
  const Choice choice = choose_blocks(segments, all.packs, vector, rows, cluster, machine, forced);
  if (const int held = held_by_lanes(choice, vector); rows && held >= 0 && cluster.blocks == 1) {
    Segments one = all;
    one.teams = 1;
    return launch(kernels.usual_by_warps[choice.start][held], choice.grid, stream, one);
  }
  if (choice.possible) {
    const auto kernel = rows ? kernels.usual_by_blocks[choice.start][cluster.blocks > 1][choice.kernel]
                             : other_by_blocks(args, choice, fit);
    return launch(kernel, choice.grid, stream, all, cluster.blocks);
  }
  return launch(kernels.in_two_passes[!vectors], {static_cast<unsigned>(segments), 1024}, stream, all);
}

int quantize_segments(const fp8bench_args &args, const Machine &machine) {
  const int64_t length = args.group > 0 ? args.group : args.hidden;
  const int64_t groups = args.group > 0 ? args.hidden / args.group : 1;
  const int64_t most_tokens = kMostSegments / std::max<int64_t>(groups, 1);
  Fit fit = fit_of(args, length);
  if (fit == Fit::kAnywhere && length <= kMostFewLanes) fit = Fit::kSingles; // a warp would be too much
  for (int64_t token = 0; token < args.tokens && groups > 0; token += most_tokens) {
    const Segments all = segments_of(args, fit, token, std::min(most_tokens, args.tokens - token));
    if (cudaError_t error = launch_segments(args, all, fit, machine)) return finish(error);
  }
  return finish(cudaSuccess);
}

// ---- One scale for the tensor -------------------------------------------------------------------------------

// Rows cut into tiles of at most `tile` packs. Of several rows whole packs alone.
Tensor tensor_of(const fp8bench_args &args, Fit fit, uint64_t tile) {
  const int64_t elements = elements_of_pack(args, fit);
  const bool one_row = is_contiguous(args);
  const int64_t row = one_row ? args.tokens * args.hidden : args.hidden;
  const int64_t head = fit == Fit::kAnywhere ? std::min((elements - elements_into_vector(args)) % elements, row) : 0;
  Tensor tensor{};
  tensor.x = static_cast<const char *>(args.x) + head * element_bytes(args), tensor.codes = args.codes + head;
  tensor.head = static_cast<uint32_t>(head), tensor.tail = static_cast<uint32_t>((row - head) % elements);
  tensor.scale = args.scales, tensor.scale_in = args.scale_in, tensor.scale_ub = args.scale_ub;
  tensor.x_stride = args.x_stride;
  tensor.row = (row - head) / elements;
  tensor.rows = one_row ? 1 : static_cast<uint32_t>(args.tokens);
  tensor.tiles = Size(static_cast<uint32_t>(std::max<uint64_t>(divide_up(tensor.row, tile), 1)));
  tensor.ue8m0 = args.ue8m0;
  return tensor;
}

cudaError_t launch_largest(const fp8bench_args &args, Fit fit, const Machine &machine, unsigned &blocks) {
  const bool singly = fit == Fit::kSingles;
  const uint64_t rows = is_contiguous(args) ? 1 : args.tokens;
  const uint64_t packs = args.tokens * args.hidden / elements_of_pack(args, fit);
  const MaximaChoice choice =
      choose_maxima(rows, packs / rows, singly ? kSingles : kLoopVectors, machine, Forced(args, machine));
  blocks = choice.grid.blocks;
  return launch(kernels_of(args).largest[singly], choice.grid, Stream(args, machine),
                tensor_of(args, fit, choice.tile), static_cast<uint32_t>(choice.tile),
                static_cast<uint32_t *>(args.workspace));
}

cudaError_t launch_tiles(const fp8bench_args &args, Fit fit, const Choice &choice, const Machine &machine,
                         unsigned maxima) {
  const bool singly = fit == Fit::kSingles;
  const uint64_t held = singly ? kSingles : kTileVectors[choice.kernel];
  const Tensor tensor = tensor_of(args, fit, held * choice.grid.threads);
  const Grid grid{tensor.tiles.size() * tensor.rows, choice.grid.threads};
  return launch(kernels_of(args).tiles[singly][choice.kernel], grid, Stream(args, machine), tensor,
                static_cast<const uint32_t *>(args.workspace), maxima);
}

// Both kernels of the usual case. The second starts while the first ends, whether they overlap their neighbours or not.
cudaError_t launch_row(const fp8bench_args &args, uint32_t packs, const Choice &tiles, const Machine &machine) {
  const Kernels &kernels = kernels_of(args);
  const Stream stream(args, machine);
  auto *maxima = static_cast<uint32_t *>(args.workspace);
  const Choice choice = choose_row_maxima(packs, machine, Forced(args, machine));
  const auto largest = kernels.largest_of_row[!stream.overlaps][choice.kernel];
  if (cudaError_t error = launch(largest, choice.grid, stream, args.x, packs, maxima)) return error;
  const auto share = static_cast<uint64_t>(kTileVectors[tiles.kernel]) * tiles.grid.threads;
  const Grid grid{static_cast<unsigned>(divide_up(packs, share)), tiles.grid.threads};
  return launch(kernels.row[tiles.kernel], grid, Stream(args, machine.hopper), args.x, args.codes, args.scales, packs,
                maxima, choice.grid.blocks);
}

// Where the blocks of one kernel meet.
void *meeting_of(const fp8bench_args &args) {
  return static_cast<char *>(args.workspace) + (element_bytes(args) == 2 ? kMeetingOfHalves : kMeetingOfWords);
}

// One kernel, whose blocks meet; the usual case, or of odd sizes.
cudaError_t launch_by_grid(const fp8bench_args &args, Fit fit, const Choice &choice, const Machine &machine) {
  const Kernels &kernels = kernels_of(args);
  const Tensor tensor = tensor_of(args, fit, kMostUsual); // in one tile: there are none here
  const bool alone = choice.start == index_of(Start::kAlone);
  const auto kernel =
      fit == Fit::kWhole ? kernels.usual_by_grid[alone][choice.kernel] : kernels.odd_by_grid[choice.kernel];
  return launch(kernel, choice.grid, Stream(args, machine), tensor.x, tensor.codes, tensor.scale, meeting_of(args),
                tensor.row, tensor.head, tensor.tail);
}

// One kernel, whose blocks meet and keep some of the tensor in shared memory; the usual case.
cudaError_t launch_by_ring(const fp8bench_args &args, uint64_t packs, const Choice &choice, const Machine &machine) {
  const uint64_t steps = divide_up(packs, uint64_t{choice.grid.blocks} * choice.grid.threads);
  return launch(kernels_of(args).by_ring, choice.grid, Stream(args, machine), args.x, args.codes, args.scales,
                meeting_of(args), packs, steps);
}

// The whole tensor as one segment, which `cluster` blocks hold in registers.
cudaError_t launch_one_segment(const fp8bench_args &args, Fit fit, const Choice &choice, const Machine &machine) {
  Segments all{};
  all.x = first_read(args);
  all.codes = args.codes, all.scales = args.scales, all.scale_ub = args.scale_ub;
  all.tokens = 1;
  all.length = static_cast<uint32_t>(args.tokens * args.hidden);
  all.packs = static_cast<uint32_t>(all.length / elements_of_pack(args, fit));
  all.ue8m0 = args.ue8m0;
  const Kernels &kernels = kernels_of(args);
  const bool cluster = choice.grid.cluster > 1;
  const auto kernel = is_usual(args, fit) ? kernels.usual_by_blocks[choice.start][cluster][choice.kernel]
                                          : other_by_blocks(args, choice, fit);
  return launch(kernel, choice.grid, Stream(args, machine), all, choice.grid.cluster);
}

int quantize_tensor(const fp8bench_args &args, const Machine &machine) {
  const int64_t elements = args.tokens * args.hidden;
  const bool one_row = is_contiguous(args);
  Fit fit = fit_of(args, one_row ? elements : args.hidden);
  if (fit == Fit::kAnywhere && !one_row) fit = Fit::kSingles; // the kernels know the ends of one row alone
  const bool vectors = fit != Fit::kSingles;
  const uint64_t packs = elements / elements_of_pack(args, fit);
  const Forced forced(args, machine);
  const ByCluster cluster = one_row ? choose_cluster(packs, vectors, machine, forced) : ByCluster{};
  const bool given = args.scale_in != nullptr;
  if (!given && cluster.blocks > 0) {
    const unsigned vector = elements_of_pack(args, fit);
    const Choice choice = choose_blocks(1, packs, vector, is_usual(args, fit), cluster, machine, forced);
    if (choice.possible) return finish(launch_one_segment(args, fit, choice, machine));
  }
  if (!given && args.workspace == nullptr) return refuse(FP8BENCH_BAD_ARGUMENT, "workspace is null");
  const bool usual = is_usual(args, fit), odd = packs > 1 && is_usual(args, fit, Fit::kAnywhere); // one pack is whole
  if (usual || odd)
    if (const Choice grid = choose_grid(packs, machine, forced); grid.possible)
      return finish(launch_by_grid(args, fit, grid, machine));
  if (usual)
    if (const Choice ring = choose_ring(packs, machine, forced); ring.possible)
      return finish(launch_by_ring(args, packs, ring, machine));
  if (forced.cluster == kForcedGrid || forced.cluster == kForcedRing)
    return refuse(FP8BENCH_UNSUPPORTED, "the forced launch shape does not fit");
  const Choice choice = choose_tiles(packs, vectors, machine, forced);
  if (usual) return finish(launch_row(args, static_cast<uint32_t>(packs), choice, machine));
  unsigned maxima = 0;
  if (!given)
    if (cudaError_t error = launch_largest(args, fit, machine, maxima)) return finish(error);
  return finish(launch_tiles(args, fit, choice, machine, maxima));
}

int quantize(const fp8bench_args &args) {
  if (const char *reason = complaint_about_sizes(args)) return refuse(FP8BENCH_BAD_ARGUMENT, reason);
  if (const char *reason = complaint_about_pointers(args)) return refuse(FP8BENCH_BAD_ARGUMENT, reason);
  if (args.hidden > kMostHidden) return refuse(FP8BENCH_UNSUPPORTED, "hidden is above 2^30");
  if (args.tokens > kMostSegments && args.group == 0 && !is_contiguous(args))
    return refuse(FP8BENCH_UNSUPPORTED, "a tensor with gaps has more than 2^30 tokens");
  if (args.tokens * args.hidden == 0 && args.scale_in != nullptr) return finish(cudaSuccess);
  Machine machine;
  const auto largest_cluster = reinterpret_cast<const void *>(bf16_kernels.usual_by_blocks[0][true][0]);
  if (cudaError_t error = current_machine(largest_cluster, machine)) return finish(error);
  return args.group == 0 ? quantize_tensor(args, machine) : quantize_segments(args, machine);
}

// ---- The floor ----------------------------------------------------------------------------------------------

int cast(const fp8bench_args &args, int variant) {
  const uint64_t elements = args.tokens * args.hidden;
  const bool fits = is_contiguous(args) && fit_of(args, elements) == Fit::kWhole;
  if (!fits) return refuse(FP8BENCH_UNSUPPORTED, "vectors do not fit");
  const int kernel = variant / std::size(kFloorThreads);
  const unsigned threads = kFloorThreads[variant % std::size(kFloorThreads)];
  const uint64_t packs = elements / elements_of_vector(args);
  if (packs == 0) return finish(cudaSuccess);
  const Grid grid{static_cast<unsigned>(divide_up(packs, uint64_t{threads} * kFloorVectors[kernel])), threads};
  return finish(launch(kernels_of(args).floor[kernel], grid, Stream(args, false), args.x, args.codes, packs,
                       0.5f));
}

} // namespace
} // namespace fp8bench

extern "C" {

int fp8bench_quantize(const fp8bench_args *args) { return fp8bench::quantize(*args); }

int64_t fp8bench_workspace_bytes(const fp8bench_args *args) {
  return args->group == 0 ? fp8bench::kWorkspaceBytes : 0;
}

int fp8bench_floor_variants(void) { return std::size(fp8bench::kFloorVectors) * std::size(fp8bench::kFloorThreads); }

int fp8bench_floor(const fp8bench_args *args, int variant) {
  if (variant < 0 || variant >= fp8bench_floor_variants())
    return fp8bench::refuse(FP8BENCH_BAD_ARGUMENT, "there is no such variant of the floor");
  return fp8bench::cast(*args, variant);
}

int fp8bench_abi(void) { return FP8BENCH_ABI; }

const char *fp8bench_source_hash(void) { return FP8BENCH_SOURCE_HASH; }

const char *fp8bench_last_error(void) { return fp8bench::last_error; }

} // extern "C"

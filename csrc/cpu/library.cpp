// libfp8bench_cpu: the C interface of ../fp8bench.h for the host. Single-threaded, so that times compare.
#include "families.h"

namespace {

thread_local const char *last_error = "";

int refuse(fp8bench_status status, const char *reason) {
  last_error = reason;
  return status;
}

// Why the sizes and choices make no sense, or null.
const char *complaint_about_sizes(const fp8bench_args &args) {
  if (args.tokens < 0 || args.hidden < 0) return "tokens and hidden must not be negative";
  if (args.group < -1) return "group must be 0 (per tensor), -1 (per token) or the size of a group";
  if (args.group > 0 && args.hidden % args.group != 0) return "hidden is not divisible by the group size";
  if (args.column_major && args.group <= 0) return "column-major scales exist per group only";
  if (args.dtype < FP8BENCH_BF16 || args.dtype > FP8BENCH_FP32) return "unknown dtype";
  return nullptr;
}

// Why the pointers cannot be used, or null. An empty tensor needs no elements.
const char *complaint_about_pointers(const fp8bench_args &args) {
  if (args.tokens * args.hidden > 0 && (args.x == nullptr || args.codes == nullptr)) return "x or codes is null";
  if (args.scales == nullptr && args.scale_in == nullptr) return "scales and scale_in are both null";
  return nullptr;
}

} // namespace

extern "C" {

int fp8bench_quantize(const fp8bench_args *args) {
  if (const char *reason = complaint_about_sizes(*args)) return refuse(FP8BENCH_BAD_ARGUMENT, reason);
  if (const char *reason = complaint_about_pointers(*args)) return refuse(FP8BENCH_BAD_ARGUMENT, reason);
  if (args->group == 0) fp8bench::quantize_per_tensor(*args);
  else if (args->group == -1) fp8bench::quantize_per_token(*args);
  else fp8bench::quantize_per_group(*args);
  last_error = "";
  return FP8BENCH_OK;
}

int64_t fp8bench_workspace_bytes(const fp8bench_args *) { return 0; }

int fp8bench_abi(void) { return FP8BENCH_ABI; }

const char *fp8bench_source_hash(void) { return FP8BENCH_SOURCE_HASH; }

const char *fp8bench_last_error(void) { return last_error; }

} // extern "C"

// libfp8bench_cpu: the C interface of ../fp8bench.h for the host. Single-threaded, so that times compare.
#include "../arguments.h"
#include "families.h"

namespace {

thread_local const char *last_error = "";

int refuse(fp8bench_status status, const char *reason) {
  last_error = reason;
  return status;
}

} // namespace

extern "C" {

int fp8bench_quantize(const fp8bench_args *args) {
  if (const char *reason = fp8bench::complaint_about_sizes(*args)) return refuse(FP8BENCH_BAD_ARGUMENT, reason);
  if (const char *reason = fp8bench::complaint_about_pointers(*args)) return refuse(FP8BENCH_BAD_ARGUMENT, reason);
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

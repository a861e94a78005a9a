// The families of kernels: one file each. The arguments have been checked (library.cpp).
#pragma once

#include "../fp8bench.h"

namespace fp8bench {

void quantize_per_tensor(const fp8bench_args &args);
void quantize_per_token(const fp8bench_args &args);
void quantize_per_group(const fp8bench_args &args);

} // namespace fp8bench

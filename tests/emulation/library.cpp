// libfp8bench_cuda for a host: the kernels' own sources, unchanged, over an emulated CUDA.
#include "cuda_runtime.h"

#include "cuda/bf16.cu"
#include "cuda/fp16.cu"
#include "cuda/fp32.cu"
#include "cuda/library.cu"

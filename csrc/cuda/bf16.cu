#include "kernels.cuh"

namespace fp8bench {
const Kernels bf16_kernels = kernels_for<Bfloat16>();
}

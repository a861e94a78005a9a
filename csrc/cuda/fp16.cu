#include "kernels.cuh"

namespace fp8bench {
const Kernels fp16_kernels = kernels_for<Float16>();
}

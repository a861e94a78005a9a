#include "kernels.cuh"

namespace fp8bench {
const Kernels fp32_kernels = kernels_for<Float32>();
}

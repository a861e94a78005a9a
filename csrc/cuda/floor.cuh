// The floor: what a kernel that moves the same bytes takes, with a scale that is fixed beforehand and no reduction.
#pragma once

#include "device.cuh"
#include "elements.cuh"

namespace fp8bench {

struct ByFixedScale {
  float factor;
  __device__ __forceinline__ float operator()(float x) const { return x * factor; }
};

// Casts `count` packs at `x`, which lie one behind the other; a block takes kPacks packs a thread. As plain as anybody
// would write it, so that figures over the floor compare with others' (docs/kernels.md says what tricks would spare).
// Launched without overlap, so it neither waits nor lets anyone start.
template <class Pack, int kPacks>
__global__ void __launch_bounds__(1024) cast_tiles(const void *x, uint8_t *codes, uint64_t count, float factor) {
  const uint64_t first = static_cast<uint64_t>(blockIdx.x) * blockDim.x * kPacks;
  const uint64_t left = count - first;
  const Below mine{static_cast<uint32_t>(left < blockDim.x * kPacks ? left : blockDim.x * kPacks)};
  Packs<Pack, kPacks> packs;
  packs.load(static_cast<const typename Pack::Storage *>(x) + first * Pack::kElements, threadIdx.x, blockDim.x, mine);
  packs.store_with(codes + first * Pack::kElements, threadIdx.x, blockDim.x, mine, ByFixedScale{factor});
}

} // namespace fp8bench

// libfp8bench_cuda for a host: the kernels' own sources, unchanged, over an emulated CUDA.
#include "cuda_runtime.h"

#include "cuda/bf16.cu"
#include "cuda/fp16.cu"
#include "cuda/fp32.cu"
#include "cuda/library.cu"

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Of emulation::kMachines, the one that calls from now on run on.
EXPORTED void emulate_machine(int device) { emulation::device = device; }

// From now on `room` blocks of a grid run at a time, in an order drawn from `seed` (0: in turns); or, if there is no
// room, one after the other. What they write must be memory that processes share.
EXPORTED void emulate_room(unsigned room, uint64_t seed) {
  emulation::crowd.room = room, emulation::crowd.random = seed;
}

// Words that blocks have shown each other in the last grid that ran so.
EXPORTED uint64_t emulated_shows() { return emulation::crowd.shown; }

// What was fetched into the cache since the last time, as pairs of address and bytes; how many pairs, at most `most`.
EXPORTED uint64_t emulated_fetches(uint64_t *pairs, uint64_t most) {
  const uint64_t count = std::min<uint64_t>(emulation::fetches.size(), most);
  memcpy(pairs, emulation::fetches.data(), count * sizeof(emulation::Fetch));
  emulation::fetches.clear();
  return count;
}

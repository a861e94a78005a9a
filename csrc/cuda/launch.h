// Launching: the machine, the stream, the attributes, and the errors.
#pragma once

#include <cuda_runtime.h>

#include "../fp8bench.h"

namespace fp8bench {

// What the choice of a launch shape depends on; of the current device.
struct Machine {
  int multiprocessors = 0;
  int threads = 0; // that are resident at once
  bool hopper = false; // or later: has clusters and programmatic dependent launch
};

// Whether the call may overlap its neighbours on the stream. (The second of its own kernels may start while the first
// ends in any case.)
inline bool overlaps_neighbours(const fp8bench_args &args, const Machine &machine) {
  return machine.hopper && (args.flags & FP8BENCH_NO_PDL) == 0;
}

inline cudaError_t read_machine(int device, Machine &machine) {
  const auto get = [device](int &value, cudaDeviceAttr what) { return cudaDeviceGetAttribute(&value, what, device); };
  int threads = 0, major = 0;
  if (cudaError_t error = get(machine.multiprocessors, cudaDevAttrMultiProcessorCount)) return error;
  if (cudaError_t error = get(threads, cudaDevAttrMaxThreadsPerMultiProcessor)) return error;
  if (cudaError_t error = get(major, cudaDevAttrComputeCapabilityMajor)) return error;
  machine.threads = threads * machine.multiprocessors;
  machine.hopper = major >= 9;
  return cudaSuccess;
}

// Remembers the last device that this thread asked about.
inline cudaError_t current_machine(Machine &machine) {
  thread_local int known = -1;
  thread_local Machine last;
  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (device != known) {
    if (cudaError_t error = read_machine(device, last)) return error;
    known = device;
  }
  machine = last;
  return cudaSuccess;
}

struct Stream {
  cudaStream_t handle;
  bool overlaps; // programmatic dependent launch: the start of a kernel overlaps the end of the one before

  Stream(const fp8bench_args &args, bool overlaps)
      : handle(static_cast<cudaStream_t>(args.stream)), overlaps(overlaps) {}
  Stream(const fp8bench_args &args, const Machine &machine) : Stream(args, overlaps_neighbours(args, machine)) {}
};

struct Grid {
  unsigned blocks, threads, cluster = 1, layers = 1; // layers: blocks in the second dimension
};

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const Grid &grid, const Stream &stream, Arguments... arguments) {
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid.blocks, grid.layers), config.blockDim = grid.threads, config.stream = stream.handle;
  config.attrs = attributes;
  if (stream.overlaps) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (grid.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = grid.cluster;
    attributes[config.numAttrs].val.clusterDim.y = attributes[config.numAttrs].val.clusterDim.z = 1;
    ++config.numAttrs;
  }
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

} // namespace fp8bench

// Launching: the machine, the stream, the attributes, and the errors.
#pragma once

#include <cuda_runtime.h>

#include "../fp8bench.h"
#include "device.cuh"

namespace fp8bench {

// What the choice of a launch shape depends on; of the current device.
struct Machine {
  int multiprocessors = 0;
  int threads = 0; // that are resident at once
  bool hopper = false; // or later: has clusters and programmatic dependent launch
  unsigned cluster = 1; // blocks that a cluster can have
  int shared_bytes = 0; // of shared memory that a block can have
  int device = -1;
};

// Whether the call may overlap its neighbours on the stream. (The second of its own kernels may start while the first
// ends in any case.)
inline bool overlaps_neighbours(const fp8bench_args &args, const Machine &machine) {
  return machine.hopper && (args.flags & FP8BENCH_NO_PDL) == 0;
}

// Clusters of more than kCluster blocks: not every device has room for one, and their kernels must be allowed them.
inline cudaError_t allow_large_clusters(const void *kernel) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
}

inline cudaError_t allow_shared_bytes(const void *kernel, unsigned bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

// Whether the current device has room for a cluster of `blocks` largest blocks of `kernel`.
inline bool has_clusters(const void *kernel, unsigned blocks) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = blocks, attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks, config.blockDim = 1024, config.attrs = &attribute, config.numAttrs = 1;
  int clusters = 0;
  const bool asked = allow_large_clusters(kernel) == cudaSuccess &&
                     cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) == cudaSuccess;
  if (!asked) cudaGetLastError(); // so that nobody finds it later
  return asked && clusters > 0;
}

// largest_cluster: a kernel that could be launched with clusters of kMostCluster blocks.
inline cudaError_t read_machine(int device, const void *largest_cluster, Machine &machine) {
  const auto get = [device](int &value, cudaDeviceAttr what) { return cudaDeviceGetAttribute(&value, what, device); };
  int threads = 0, major = 0;
  if (cudaError_t error = get(machine.multiprocessors, cudaDevAttrMultiProcessorCount)) return error;
  if (cudaError_t error = get(threads, cudaDevAttrMaxThreadsPerMultiProcessor)) return error;
  if (cudaError_t error = get(major, cudaDevAttrComputeCapabilityMajor)) return error;
  if (cudaError_t error = get(machine.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin)) return error;
  machine.threads = threads * machine.multiprocessors;
  machine.hopper = major >= 9;
  if (machine.hopper) machine.cluster = has_clusters(largest_cluster, kMostCluster) ? kMostCluster : kCluster;
  machine.device = device;
  return cudaSuccess;
}

// Remembers the devices that this thread asked about.
inline cudaError_t current_machine(const void *largest_cluster, Machine &machine) {
  constexpr int kDevices = 32; // of more, some share a place and are asked about again
  thread_local Machine known[kDevices];
  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  Machine &mine = known[device % kDevices];
  if (mine.device != device) {
    Machine read;
    if (cudaError_t error = read_machine(device, largest_cluster, read)) return error;
    mine = read;
  }
  machine = mine;
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
  unsigned shared_bytes = 0;                         // of dynamic shared memory
};

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const Grid &grid, const Stream &stream, Arguments... arguments) {
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid.blocks, grid.layers), config.blockDim = grid.threads, config.stream = stream.handle;
  config.attrs = attributes, config.dynamicSmemBytes = grid.shared_bytes;
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
  if (grid.cluster > kCluster)
    if (cudaError_t error = allow_large_clusters(reinterpret_cast<const void *>(kernel))) return error;
  if (grid.shared_bytes > 0)
    if (cudaError_t error = allow_shared_bytes(reinterpret_cast<const void *>(kernel), grid.shared_bytes)) return error;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

} // namespace fp8bench

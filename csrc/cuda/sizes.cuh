// Division by sizes that are known at launch.
#pragma once

#include <stdint.h>

namespace fp8bench {

// Divides numbers below 2^31 by a size, 1 <= size < 2^31: a multiplication and a shift.
class Size {
public:
  Size() = default;
  explicit Size(uint32_t size) : size_(size) {
    while ((uint64_t{1} << log_) < size) ++log_;
    multiplier_ = static_cast<uint32_t>(((uint64_t{1} << (31 + log_)) + size - 1) / size);
  }

  __host__ __device__ __forceinline__ uint32_t size() const { return size_; }
  __device__ __forceinline__ uint32_t divide(uint32_t number) const {
    return static_cast<uint32_t>((uint64_t{number} * multiplier_) >> (31 + log_));
  }

private:
  uint32_t size_ = 1, multiplier_ = uint32_t{1} << 31, log_ = 0;
};

} // namespace fp8bench

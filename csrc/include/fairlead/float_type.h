// What memory holds that a kernel reads as float32; kernels/fairlead_kernels/native/layout.py has
// the same numbers.
#pragma once

namespace fairlead {

enum class FloatType : int { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2 };

}  // namespace fairlead

#pragma once

#include "cuda_runtime.h"

struct __half {
    _Float16 value;
};

inline float __half2float(__half x) { return static_cast<float>(x.value); }

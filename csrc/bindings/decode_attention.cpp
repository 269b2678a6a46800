#include "fairlead/decode_attention.h"

#include <pybind11/stl.h>

#include <array>

#include "bindings.h"

namespace fairlead::bindings {
namespace {

// The lengths decide which memory is read, so they are checked here, where that costs nothing.
void check_lengths(const DecodeAttentionArguments& a, std::int64_t positions) {
    const std::int64_t least = a.new_keys == nullptr ? 0 : 1;
    for (std::int64_t row = 0; row < a.batch; ++row) {
        if (a.lengths[row] >= least && a.lengths[row] <= positions) continue;
        throw std::invalid_argument("decode_attention: lengths must be within " +
                                    std::to_string(least) + ".." + std::to_string(positions) +
                                    ", row " + std::to_string(row) + " has " +
                                    std::to_string(a.lengths[row]));
    }
}

void decode_attention_cpu(std::uintptr_t query, std::uintptr_t keys, std::uintptr_t values,
                          std::uintptr_t new_keys, std::uintptr_t new_values,
                          std::uintptr_t lengths, std::uintptr_t out,
                          const std::array<std::int64_t, 5>& shape,
                          const std::array<std::int64_t, 12>& strides, double scale, int type,
                          int threads, const std::string& instruction_set) {
    const auto [batch, heads, kv_heads, positions, dim] = shape;
    const DecodeAttentionArguments arguments = {
        pointer<const float>(query),
        pointer<void>(keys),
        pointer<void>(values),
        pointer<const float>(new_keys),
        pointer<const float>(new_values),
        pointer<const std::int64_t>(lengths),
        pointer<float>(out),
        batch,
        heads,
        kv_heads,
        dim,
        {strides[0], strides[1]},
        {strides[2], strides[3], strides[4]},
        {strides[5], strides[6], strides[7]},
        {strides[8], strides[9]},
        {strides[10], strides[11]},
        static_cast<float>(scale),
        static_cast<FloatType>(type),
        threads,
    };
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    check_lengths(arguments, positions);
    chosen.decode_attention(arguments);
}

}  // namespace

void bind_decode_attention(py::module_& module) {
    module.def("decode_attention_cpu", &decode_attention_cpu, py::arg("query"), py::arg("keys"),
               py::arg("values"), py::arg("new_keys"), py::arg("new_values"), py::arg("lengths"),
               py::arg("out"), py::arg("shape"), py::arg("strides"), py::arg("scale"),
               py::arg("type"), py::arg("threads") = 1, py::arg("instruction_set") = "");
}

}  // namespace fairlead::bindings

#include "fairlead/ragged_attention.h"

#include <pybind11/stl.h>

#include <array>

#include "bindings.h"

namespace fairlead::bindings {
namespace {

// Offsets decide which memory is read and written, so they are checked here.
void check_offsets(const RaggedAttentionArguments& a) {
    for (std::int64_t b = 0; b <= a.sequences; ++b) {
        const std::int64_t least = b == 0 ? 0 : a.offsets[b - 1];
        const std::int64_t most = b == 0 ? 0 : a.positions;
        if (a.offsets[b] >= least && a.offsets[b] <= most) continue;
        throw std::invalid_argument("ragged_attention: offsets must rise from 0 to at most " +
                                    std::to_string(a.positions) + ", the one at " +
                                    std::to_string(b) + " is " + std::to_string(a.offsets[b]));
    }
}

HeadRows rows(std::uintptr_t address, const std::int64_t* strides) {
    return {pointer<void>(address), strides[0], strides[1]};
}

// Query, keys and values; the shape is (sequences, positions, heads, kv_heads, dim).
RaggedAttentionArguments common(const std::array<std::uintptr_t, 4>& inputs,
                                const std::array<std::int64_t, 5>& shape,
                                const std::array<std::int64_t, 6>& strides, double scale, int type,
                                int threads) {
    const auto [sequences, positions, heads, kv_heads, dim] = shape;
    return {rows(inputs[0], strides.data()),
            rows(inputs[1], strides.data() + 2),
            rows(inputs[2], strides.data() + 4),
            pointer<const std::int64_t>(inputs[3]),
            sequences,
            positions,
            heads,
            kv_heads,
            dim,
            static_cast<float>(scale),
            static_cast<FloatType>(type),
            threads};
}

void ragged_attention_forward_cpu(std::uintptr_t query, std::uintptr_t keys, std::uintptr_t values,
                                  std::uintptr_t offsets, std::uintptr_t out,
                                  std::uintptr_t logsums, const std::array<std::int64_t, 5>& shape,
                                  const std::array<std::int64_t, 6>& strides, double scale,
                                  int type, int threads, const std::string& instruction_set) {
    const RaggedAttentionForward arguments = {
        common({query, keys, values, offsets}, shape, strides, scale, type, threads),
        pointer<void>(out),
        pointer<float>(logsums),
    };
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    check_offsets(arguments.common);
    chosen.ragged_attention_forward(arguments);
}

void ragged_attention_backward_cpu(
    std::uintptr_t query, std::uintptr_t keys, std::uintptr_t values, std::uintptr_t offsets,
    std::uintptr_t out, std::uintptr_t logsums, std::uintptr_t grad_out, std::uintptr_t grad_query,
    std::uintptr_t grad_keys, std::uintptr_t grad_values, const std::array<std::int64_t, 5>& shape,
    const std::array<std::int64_t, 6>& strides, const std::array<std::int64_t, 2>& grad_strides,
    double scale, int type, int threads, const std::string& instruction_set) {
    const RaggedAttentionBackward arguments = {
        common({query, keys, values, offsets}, shape, strides, scale, type, threads),
        pointer<const void>(out),
        pointer<const float>(logsums),
        rows(grad_out, grad_strides.data()),
        pointer<void>(grad_query),
        pointer<void>(grad_keys),
        pointer<void>(grad_values),
    };
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    check_offsets(arguments.common);
    chosen.ragged_attention_backward(arguments);
}

}  // namespace

void bind_ragged_attention(py::module_& module) {
    module.def("ragged_attention_forward_cpu", &ragged_attention_forward_cpu, py::arg("query"),
               py::arg("keys"), py::arg("values"), py::arg("offsets"), py::arg("out"),
               py::arg("logsums"), py::arg("shape"), py::arg("strides"), py::arg("scale"),
               py::arg("type"), py::arg("threads") = 1, py::arg("instruction_set") = "");
    module.def("ragged_attention_backward_cpu", &ragged_attention_backward_cpu, py::arg("query"),
               py::arg("keys"), py::arg("values"), py::arg("offsets"), py::arg("out"),
               py::arg("logsums"), py::arg("grad_out"), py::arg("grad_query"), py::arg("grad_keys"),
               py::arg("grad_values"), py::arg("shape"), py::arg("strides"),
               py::arg("grad_strides"), py::arg("scale"), py::arg("type"), py::arg("threads") = 1,
               py::arg("instruction_set") = "");
}

}  // namespace fairlead::bindings

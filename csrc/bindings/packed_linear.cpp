#include "fairlead/packed_linear.h"

#include "bindings.h"

namespace fairlead::bindings {
namespace {

void packed_linear_cpu(std::uintptr_t rows, std::uintptr_t panels, std::uintptr_t bias,
                       std::uintptr_t out, std::int64_t count, std::int64_t inputs,
                       std::int64_t outputs, std::int64_t stride, bool gelu, int threads,
                       const std::string& instruction_set) {
    const PackedLinearArguments arguments = {pointer<const float>(rows),
                                             pointer<const float>(panels),
                                             pointer<const float>(bias),
                                             pointer<float>(out),
                                             count,
                                             inputs,
                                             outputs,
                                             stride,
                                             gelu,
                                             threads};
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    chosen.packed_linear(arguments);
}

}  // namespace

void bind_packed_linear(py::module_& module) {
    module.def("packed_linear_cpu", &packed_linear_cpu, py::arg("rows"), py::arg("panels"),
               py::arg("bias"), py::arg("out"), py::arg("count"), py::arg("inputs"),
               py::arg("outputs"), py::arg("stride"), py::arg("gelu"), py::arg("threads") = 1,
               py::arg("instruction_set") = "");
}

}  // namespace fairlead::bindings

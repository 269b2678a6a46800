#include "fairlead/row_linear.h"

#include "bindings.h"

namespace fairlead::bindings {
namespace {

void row_linear_cpu(std::uintptr_t row, std::uintptr_t weight, std::uintptr_t bias,
                    std::uintptr_t out, std::int64_t inputs, std::int64_t outputs,
                    std::int64_t stride, bool inputs_first, int threads,
                    const std::string& instruction_set) {
    const RowLinearArguments arguments = {pointer<const float>(row),
                                          pointer<const float>(weight),
                                          pointer<const float>(bias),
                                          pointer<float>(out),
                                          inputs,
                                          outputs,
                                          stride,
                                          inputs_first,
                                          threads};
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    chosen.row_linear(arguments);
}

}  // namespace

void bind_row_linear(py::module_& module) {
    module.def("row_linear_cpu", &row_linear_cpu, py::arg("row"), py::arg("weight"),
               py::arg("bias"), py::arg("out"), py::arg("inputs"), py::arg("outputs"),
               py::arg("stride"), py::arg("inputs_first"), py::arg("threads") = 1,
               py::arg("instruction_set") = "");
}

}  // namespace fairlead::bindings

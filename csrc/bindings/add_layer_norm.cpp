#include "fairlead/add_layer_norm.h"

#include "bindings.h"

namespace fairlead::bindings {
namespace {

void add_layer_norm_cpu(std::uintptr_t x, std::uintptr_t other, std::uintptr_t weight,
                        std::uintptr_t bias, std::uintptr_t sum, std::uintptr_t out,
                        std::int64_t count, std::int64_t width, double eps, int threads,
                        const std::string& instruction_set) {
    const AddLayerNormArguments arguments = {pointer<const float>(x),
                                             pointer<const float>(other),
                                             pointer<const float>(weight),
                                             pointer<const float>(bias),
                                             pointer<float>(sum),
                                             pointer<float>(out),
                                             count,
                                             width,
                                             eps,
                                             threads};
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    chosen.add_layer_norm(arguments);
}

}  // namespace

void bind_add_layer_norm(py::module_& module) {
    module.def("add_layer_norm_cpu", &add_layer_norm_cpu, py::arg("x"), py::arg("other"),
               py::arg("weight"), py::arg("bias"), py::arg("sum"), py::arg("out"), py::arg("count"),
               py::arg("width"), py::arg("eps"), py::arg("threads") = 1,
               py::arg("instruction_set") = "");
}

}  // namespace fairlead::bindings

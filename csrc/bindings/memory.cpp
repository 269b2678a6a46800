// Memory for large results. Fresh memory costs more than the kernels that fill it: of 250 MB the
// page faults, 4 KiB each, take several times as long as writing it does, and where a virtual
// machine has to get the memory back from its host a hundred times as long. So it comes in huge
// pages, and what was given back last is kept for the next of its size, marked as free for the
// system to take whenever it needs memory.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "bindings.h"

namespace fairlead::bindings {
#if defined(__linux__) && defined(MADV_HUGEPAGE) && defined(MADV_FREE)
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

// A mapping, with room to begin at a huge page's boundary.
class Mapping {
  public:
    explicit Mapping(std::size_t bytes)
        : bytes_((bytes + kHugePage - 1) / kHugePage * kHugePage),
          mapped_(mmap(nullptr, bytes_ + kHugePage, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
        if (mapped_ == MAP_FAILED) throw std::bad_alloc();
        // Advice only: where the system has no huge pages nothing changes.
        madvise(data(), bytes_, MADV_HUGEPAGE);
    }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() { munmap(mapped_, bytes_ + kHugePage); }

    void* data() const {
        const auto address = reinterpret_cast<std::uintptr_t>(mapped_);
        return pointer<void>((address + kHugePage - 1) / kHugePage * kHugePage);
    }
    // Whether so many bytes fit, and take at least half of it.
    bool suits(std::size_t bytes) const { return bytes <= bytes_ && bytes_ / 2 <= bytes; }
    // The contents may go, and the memory with them; what is written from now on stays.
    void let_go() const { madvise(data(), bytes_, MADV_FREE); }

  private:
    std::size_t bytes_;
    void* mapped_;
};

// The one mapping that was given back last, if nobody took it since.
class Spare {
  public:
    std::unique_ptr<Mapping> take(std::size_t bytes) {
        std::unique_ptr<Mapping> found = swap(nullptr);
        // What does not suit is unmapped before the other is made: never both.
        if (found != nullptr && !found->suits(bytes)) found = nullptr;
        return found != nullptr ? std::move(found) : std::make_unique<Mapping>(bytes);
    }
    void give(std::unique_ptr<Mapping> mapping) {
        mapping->let_go();
        swap(std::move(mapping));
    }
    void drop() { swap(nullptr); }

  private:
    std::unique_ptr<Mapping> swap(std::unique_ptr<Mapping> next) {
        const std::lock_guard<std::mutex> guard(mutex_);
        mapping_.swap(next);
        return next;
    }

    std::mutex mutex_;
    std::unique_ptr<Mapping> mapping_;
};

// Never destroyed: tensors may outlive the module.
Spare& spare() {
    static auto* const one = new Spare();
    return *one;
}

// Memory that Python reads as a buffer, and holds as long as a tensor lies in it.
class Pages {
  public:
    explicit Pages(std::size_t bytes) : bytes_(bytes), mapping_(spare().take(bytes)) {}
    Pages(const Pages&) = delete;
    Pages& operator=(const Pages&) = delete;
    ~Pages() { spare().give(std::move(mapping_)); }

    py::buffer_info buffer() const {
        return {mapping_->data(), 1, py::format_descriptor<std::uint8_t>::format(),
                static_cast<py::ssize_t>(bytes_)};
    }

  private:
    std::size_t bytes_;
    std::unique_ptr<Mapping> mapping_;
};

}  // namespace

void bind_memory(py::module_& module) {
    py::class_<Pages>(module, "Pages", py::buffer_protocol())
        .def(py::init<std::size_t>(), py::arg("bytes"))
        .def_buffer([](const Pages& pages) { return pages.buffer(); });
    module.def("drop_spare_pages", [] { spare().drop(); });
}
#else
// There torch allocates: kernels/fairlead_kernels/native/memory.py looks for these two.
void bind_memory(py::module_&) {}
#endif

}  // namespace fairlead::bindings

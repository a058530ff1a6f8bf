#pragma once

#include <cstdint>
#include <filesystem>

#include "vmtest/deadline.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {

/// Connects to a program of the guest that listens on a port of its vsock, by the Unix socket that the hypervisor made for the
/// device (Firecracker's protocol, which Cloud Hypervisor and the VZ helper speak: "CONNECT <port>", answered by "OK <port of the
/// host's end>"). Returns the stream, at its first byte. Throws std::system_error when the VM does not run, Error when nobody in
/// the guest listens, Timeout when it does not say by the deadline.
[[nodiscard]] FileDescriptor connect_vsock(const std::filesystem::path& socket, std::uint32_t port, const Deadline& deadline);

}  // namespace vmtest

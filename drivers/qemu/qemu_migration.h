#pragma once

#include <nlohmann/json.hpp>

#include "qmp_client.h"
#include "vmtest/deadline.h"

namespace vmtest {

/// QEMU's name of the capability to leave out memory that is shared with a file.
inline constexpr const char* kIgnoreShared = "x-ignore-shared";
/// Whether a migration carries memory that is shared with a file. Both sides must say the same.
enum class SharedMemory { Sent, LeftOut };
void set_shared_memory(QmpClient& qemu, SharedMemory memory, const Deadline& deadline);
/// The same for the side that sends, which takes as much bandwidth as there is.
void prepare_to_send(QmpClient& qemu, SharedMemory memory, const Deadline& deadline);
/// Calls an outgoing migration off, if there is one, and waits until it is over, be it that it was done by then.
void call_off(QmpClient& qemu, const Deadline& deadline);
/// Waits for the end of a migration in either direction and returns what query-migrate says of it. An incoming one that fails
/// ends QEMU, which is an Error too. `what` begins the text of errors.
[[nodiscard]] nlohmann::json wait_migrated(QmpClient& qemu, const char* what, const Deadline& deadline);

}  // namespace vmtest

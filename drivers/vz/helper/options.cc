#include "options.h"

#include <fcntl.h>

#include <charconv>

namespace vmtest::vz {

Options parse_options(const std::vector<std::string>& arguments) {
  Options options;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    const auto value = [&]() -> const std::string& {
      if (i + 1 == arguments.size()) throw UsageError(name + " needs a value");
      return arguments[++i];
    };
    if (name == "--help") {
      options.help = true;
      return options;
    }
    if (name == "--capabilities") {
      if (arguments.size() != 1) throw UsageError("--capabilities stands alone");
      options.capabilities = true;
      return options;
    }
    if (name == "--api-socket") {
      options.api_socket = value();
    } else if (name == "--event-file") {
      options.event_file = value();
    } else if (name == "--stay") {
      options.after_guest = AfterGuest::Stay;
    } else if (name == "--owner-fd") {
      const std::string& text = value();
      const auto parsed = std::from_chars(text.data(), text.data() + text.size(), options.owner_fd);
      const bool number = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && options.owner_fd >= 0;
      if (!number || ::fcntl(options.owner_fd, F_GETFD) < 0) throw UsageError("--owner-fd: '" + text + "' is no open descriptor");
    } else {
      throw UsageError("there is no option " + name);
    }
  }
  if (options.api_socket.empty()) throw UsageError("--api-socket is missing");
  return options;
}

}  // namespace vmtest::vz

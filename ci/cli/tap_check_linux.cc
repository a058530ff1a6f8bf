#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <cstring>

#include "tap_check.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::cli {

void try_tap() {
  const FileDescriptor tun = open_file("/dev/net/tun", O_RDWR);
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  std::strncpy(request.ifr_name, "vmtprobe%d", IFNAMSIZ - 1);
  // The device goes with the descriptor.
  if (::ioctl(tun.get(), TUNSETIFF, &request) != 0) throw_errno("cannot make a TAP device");
}

}  // namespace vmtest::cli

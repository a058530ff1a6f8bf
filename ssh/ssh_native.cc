#include "vmtest/ssh_native.h"

#include "connector.h"
#include "session_log.h"

namespace vmtest {

NativeSshSession& NativeSshSession::operator=(NativeSshSession&& other) noexcept {
  if (this != &other) {
    if (session_ != nullptr) ssh_free(session_);
    session_ = std::exchange(other.session_, nullptr);
  }
  return *this;
}

NativeSshSession::~NativeSshSession() {
  if (session_ != nullptr) ssh_free(session_);
}

NativeSshSession open_native_session(const SshOptions& options) {
  ssh::SessionLog log(options.log_file);
  std::vector<Step> steps;
  ssh::SessionPtr session = ssh::connect(options, ssh::resolve(options), -1, log, steps);
  ssh_set_blocking(session.get(), 1);
  return NativeSshSession(session.release());
}

NativeSshSession open_native_session(const SshSession& session) { return open_native_session(session.options()); }

}  // namespace vmtest

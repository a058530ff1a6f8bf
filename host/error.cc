#include "vmtest/error.h"

#include <cerrno>
#include <exception>
#include <system_error>

namespace vmtest {

void rethrow_with_context(std::string_view context) {
  const auto text = [context](const char* cause) { return std::string(context) + "\n  " + cause; };
  try {
    throw;
  } catch (const Timeout& error) {
    throw Timeout(text(error.what()));
  } catch (const Unsupported& error) {
    throw Unsupported(text(error.what()));
  } catch (const std::exception& error) {
    throw Error(text(error.what()));
  } catch (...) {
    throw Error(text("an exception of unknown type"));
  }
}

void throw_errno(const std::string& what) { throw_errno(errno, what); }

void throw_errno(int error, const std::string& what) { throw std::system_error(error, std::generic_category(), what); }

}  // namespace vmtest

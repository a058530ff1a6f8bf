#include "libssh_handles.h"
#include "vmtest/error.h"
#include "vmtest/ssh_session.h"

namespace vmtest {
namespace ssh {

KeyPtr import_private_key(const std::string& text) {
  ssh_key key = nullptr;
  if (ssh_pki_import_privkey_base64(text.c_str(), nullptr, nullptr, nullptr, &key) != SSH_OK) {
    throw Error("the client's private key is not the content of an unencrypted OpenSSH private key file");
  }
  return KeyPtr(key);
}

KeyPtr import_public_key(const std::string& line) {
  const std::size_t name_end = line.find(' ');
  const std::size_t data = line.find_first_not_of(' ', name_end);
  ssh_key key = nullptr;
  if (data != std::string::npos) {
    const ssh_keytypes_e type = ssh_key_type_from_name(line.substr(0, name_end).c_str());
    const std::string base64 = line.substr(data, line.find_first_of(" \r\n", data) - data);
    if (ssh_pki_import_pubkey_base64(base64.c_str(), type, &key) == SSH_OK) return KeyPtr(key);
  }
  throw Error("not a public key line (\"ssh-ed25519 AAAA...\"): \"" + line.substr(0, 80) + "\"");
}

std::string fingerprint(ssh_key key) {
  unsigned char* hash = nullptr;
  std::size_t size = 0;
  if (ssh_get_publickey_hash(key, SSH_PUBLICKEY_HASH_SHA256, &hash, &size) != SSH_OK) throw Error("cannot hash a public key");
  const CharPtr text(ssh_get_fingerprint_hash(SSH_PUBLICKEY_HASH_SHA256, hash, size));
  ssh_clean_pubkey_hash(&hash);
  return text ? text.get() : "";
}

}  // namespace ssh

SshKeyPair generate_ssh_key(const std::string& comment) {
  ssh_key raw = nullptr;
  if (ssh_pki_generate(SSH_KEYTYPE_ED25519, 0, &raw) != SSH_OK) throw Error("libssh cannot make an ed25519 key");
  const ssh::KeyPtr key(raw);
  char* text = nullptr;
  if (ssh_pki_export_privkey_base64(key.get(), nullptr, nullptr, nullptr, &text) != SSH_OK)
    throw Error("libssh cannot export a private key");
  SshKeyPair pair;
  pair.private_key = ssh::CharPtr(text).get();
  if (ssh_pki_export_pubkey_base64(key.get(), &text) != SSH_OK) throw Error("libssh cannot export a public key");
  pair.public_key = std::string("ssh-ed25519 ") + ssh::CharPtr(text).get() + (comment.empty() ? "" : " " + comment);
  return pair;
}

std::string ssh_fingerprint(const std::string& public_key) { return ssh::fingerprint(ssh::import_public_key(public_key).get()); }

}  // namespace vmtest

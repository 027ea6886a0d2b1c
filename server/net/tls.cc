// Certificates that follow their files. They are read each second, and taken only when all of them
// parse, are valid now, and go together, which OpenSSL says before gRPC gets them: gRPC would end
// the process, or fail all handshakes, by a pair that does not match.
//
//   files -> ReadMaterial -> CheckTls -> current, generation + 1
//                              | broken: logged, the last good ones stay
//   gRPC, before each handshake -> FetchIfNew -> what is current, if its generation is another
//
// Entries: TlsCertificates::Load, Refresh, MakeCredentials. Tested by tests/e2e/test_tls.py.
#include "server/net/tls.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/io/small_file.h"

namespace quantd {
namespace {

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Deleter<&BIO_free>>;
using Certificate = std::unique_ptr<X509, Deleter<&X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Deleter<&EVP_PKEY_free>>;
using Context = std::unique_ptr<SSL_CTX, Deleter<&SSL_CTX_free>>;

Bio BioOf(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Returns an error about `path` with what OpenSSL has to say.
absl::Status TlsError(const std::string& path, absl::string_view what) {
  const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": ", what, reason != nullptr ? absl::StrCat(" (", reason, ")") : ""));
}

absl::Status CheckValidNow(const std::string& path, const X509* certificate) {
  if (X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": the certificate has expired"));
  }
  if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": the certificate is not valid yet"));
  }
  return absl::OkStatus();
}

// Reads the certificates up to the end of the file; a prompt for a passphrase must not come up.
absl::StatusOr<int> CountCertificates(const std::string& path, BIO* bio) {
  int count = 0;
  while (Certificate(PEM_read_bio_X509(bio, nullptr, nullptr, const_cast<char*>("")))) ++count;
  if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
    return TlsError(path, "a certificate cannot be read");
  }
  ERR_clear_error();
  return count;
}

// Returns when the first of the certificates in `text`, which parses, expires.
absl::Time ExpiryOf(const std::string& text) {
  absl::Time first = absl::InfiniteFuture();
  const Bio bio = BioOf(text);
  while (const Certificate certificate{
      PEM_read_bio_X509_AUX(bio.get(), nullptr, nullptr, const_cast<char*>(""))}) {
    std::tm when = {};
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &when) == 1) {
      first = std::min(first, absl::FromTM(when, absl::UTCTimeZone()));
    }
  }
  ERR_clear_error();
  return first;
}

absl::StatusOr<TlsMaterial> ReadMaterial(const TlsFiles& files) {
  TlsMaterial material;
  QUANTD_ASSIGN_OR_RETURN(material.certificate, ReadSmallFile(files.certificate));
  QUANTD_ASSIGN_OR_RETURN(material.key, ReadSmallFile(files.key));
  if (!files.client_ca.empty()) {
    QUANTD_ASSIGN_OR_RETURN(material.client_ca, ReadSmallFile(files.client_ca));
  }
  return material;
}

// Hands gRPC's own TLS credentials to a server, and certificates to the credentials.
class FollowingCredentials final : public grpc::ServerCredentials {
 public:
  explicit FollowingCredentials(TlsCertificates& certificates)
      : certificates_(certificates),
        credentials_(grpc_ssl_server_credentials_create_with_options(
            grpc_ssl_server_credentials_create_options_using_config_fetcher(
                certificates.wants_client_certificates()
                    ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                    : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
                &Fetch, this))) {}
  ~FollowingCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  // gRPC asks this before each handshake.
  static grpc_ssl_certificate_config_reload_status Fetch(
      void* self, grpc_ssl_server_certificate_config** config) {
    return static_cast<FollowingCredentials*>(self)->FetchIfNew(config);
  }
  grpc_ssl_certificate_config_reload_status FetchIfNew(
      grpc_ssl_server_certificate_config** config) {
    MutexLock lock(&mutex_);
    int64_t generation = 0;
    const TlsMaterial material = certificates_.current(&generation);
    if (generation == given_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair = {material.key.c_str(), material.certificate.c_str()};
    // gRPC 1.51 aborts without authorities, also where it asks for no client certificates and so
    // uses none; any that parse will do then.
    const std::string& authorities =
        certificates_.wants_client_certificates() ? material.client_ca : material.certificate;
    *config = grpc_ssl_server_certificate_config_create(authorities.c_str(), &pair, 1);
    given_ = generation;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  TlsCertificates& certificates_;
  Mutex mutex_;
  int64_t given_ ABSL_GUARDED_BY(mutex_) = 0;  // the generation that gRPC has
  grpc_server_credentials* const credentials_;
};

}  // namespace

absl::Status CheckTls(const TlsFiles& files, const TlsMaterial& material) {
  ERR_clear_error();
  char no_passphrase[] = "";
  const Bio chain = BioOf(material.certificate);
  const Certificate leaf(PEM_read_bio_X509_AUX(chain.get(), nullptr, nullptr, no_passphrase));
  if (leaf == nullptr) return TlsError(files.certificate, "no certificate can be read");
  QUANTD_RETURN_IF_ERROR(CheckValidNow(files.certificate, leaf.get()));
  QUANTD_RETURN_IF_ERROR(CountCertificates(files.certificate, chain.get()).status());
  const PrivateKey key(
      PEM_read_bio_PrivateKey(BioOf(material.key).get(), nullptr, nullptr, no_passphrase));
  if (key == nullptr) return TlsError(files.key, "no private key without passphrase can be read");
  // The same steps that a handshake takes, which also refuse keys that are too short.
  const Context context(SSL_CTX_new(TLS_server_method()));
  if (SSL_CTX_use_certificate(context.get(), leaf.get()) != 1) {
    return TlsError(files.certificate, "the certificate cannot be used");
  }
  if (SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1 ||
      SSL_CTX_check_private_key(context.get()) != 1) {
    return TlsError(files.key, absl::StrCat("the key does not match ", files.certificate));
  }
  if (files.client_ca.empty()) return absl::OkStatus();
  QUANTD_ASSIGN_OR_RETURN(const int authorities,
                          CountCertificates(files.client_ca, BioOf(material.client_ca).get()));
  if (authorities > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(files.client_ca, ": holds no certificate"));
}

absl::StatusOr<std::unique_ptr<TlsCertificates>> TlsCertificates::Load(
    const TlsFiles& files, std::shared_ptr<spdlog::logger> logger) {
  if (files.key.empty()) {
    return absl::InvalidArgumentError("a TLS certificate needs its key: --tls-key");
  }
  QUANTD_ASSIGN_OR_RETURN(const TlsMaterial material, ReadMaterial(files));
  QUANTD_RETURN_IF_ERROR(CheckTls(files, material));
  std::unique_ptr<TlsCertificates> loaded(new TlsCertificates(files, std::move(logger)));
  MutexLock lock(&loaded->mutex_);
  loaded->Take(material);
  loaded->last_read_ = material;
  return loaded;
}

void TlsCertificates::Take(const TlsMaterial& material) {
  current_ = material;
  expiry_ = ExpiryOf(material.certificate);
  next_notice_ = absl::InfinitePast();
}

void TlsCertificates::Refresh() {
  MutexLock lock(&mutex_);
  RefreshFiles();
  MaybeWarnOfExpiry();
}

absl::Time TlsCertificates::expiry() const {
  MutexLock lock(&mutex_);
  return expiry_;
}

void TlsCertificates::RefreshFiles() {
  const absl::StatusOr<TlsMaterial> material = ReadMaterial(files_);
  absl::Status status = material.status();
  if (status.ok()) {
    if (*material == last_read_ && last_error_.empty()) return;
    status = CheckTls(files_, *material);
    last_read_ = *material;
  }
  const std::string error(status.message());
  if (!status.ok()) {
    if (error != last_error_ && logger_ != nullptr) {
      logger_->warn("TLS: {}; what was loaded before stays in use", error);
    }
  } else if (*material != current_) {
    Take(*material);
    ++generation_;
    if (logger_ != nullptr) logger_->info("TLS: {} was loaded anew", files_.certificate);
  } else if (logger_ != nullptr) {
    logger_->info("TLS: {} is what is in use again", files_.certificate);
  }
  last_error_ = error;
}

void TlsCertificates::MaybeWarnOfExpiry() {
  const absl::Time now = absl::Now();
  if (logger_ == nullptr || now < next_notice_ || expiry_ - now > kExpiryNotice) return;
  next_notice_ = now + absl::Hours(24);
  const std::string when = absl::FormatTime("%Y-%m-%d %H:%M UTC", expiry_, absl::UTCTimeZone());
  if (expiry_ <= now) {
    logger_->error("TLS: {} has expired, on {}", files_.certificate, when);
  } else {
    logger_->warn("TLS: {} expires in {} days, on {}", files_.certificate,
                  (expiry_ - now) / absl::Hours(24), when);
  }
}

TlsMaterial TlsCertificates::current(int64_t* generation) const {
  MutexLock lock(&mutex_);
  *generation = generation_;
  return current_;
}

std::shared_ptr<grpc::ServerCredentials> TlsCertificates::MakeCredentials() {
  return std::make_shared<FollowingCredentials>(*this);
}

}  // namespace quantd

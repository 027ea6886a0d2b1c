"""Certificates made by the openssl command, for tests of TLS."""

import subprocess


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


class Authority:
    """A certificate authority with its files in a folder."""

    def __init__(self, folder, name="authority"):
        self.folder = folder
        self.key, self.certificate = folder / f"{name}.key", folder / f"{name}.pem"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", self.key, "-out", self.certificate, "-days", "2", "-subj", f"/CN={name}")

    def issue(self, name, days=2):
        """Returns the paths of a certificate for localhost with the subject `name`, and of its key."""
        key, request, certificate, names = (
            self.folder / f"{name}.{end}" for end in ("key", "csr", "pem", "names"))
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key,
                "-CAcreateserial", "-out", certificate, "-days", days, "-extfile", names)
        return certificate, key

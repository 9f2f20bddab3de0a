"""Certificates: made, imported, renewed, and those that a configuration uses.

``forms`` decides what a certificate holds, ``used`` finds those in use, ``files`` reads and writes, ``desk`` does what people ask
for.
"""

from config.certificates.desk import CertificatesDesk
from config.certificates.files import AmbiguousCertificateError, CertificatesError, NoSuchCertificateError
from config.certificates.forms import Kind, Wanted

__all__ = [
    "AmbiguousCertificateError",
    "CertificatesDesk",
    "CertificatesError",
    "Kind",
    "NoSuchCertificateError",
    "Wanted",
]

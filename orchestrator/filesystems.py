"""From a folder's URI to a pyarrow filesystem and a path in it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow
import pyarrow.fs

from dfkd.methods.errors import ConfigError

CONNECT_TIMEOUT, REQUEST_TIMEOUT = 10.0, 10.0  # seconds; the latter without a byte
S3_ATTEMPTS = 3  # by pyarrow itself, within about two seconds; then it is ours (patience.py)
SECRETS = ("key", "secret", "token", "password", "signature")  # in the names of options


def place_of(uri: str) -> tuple[Any, str]:
    """The filesystem of a remote folder, and the folder's path there.

    Raises ConfigError for what no filesystem understands, and for credentials in the URI: it is
    written to files and shown. Where no region is given S3 is asked for it, and OSErrors are its.
    """
    refuse_credentials(uri)
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
        if filesystem.type_name == "s3":
            filesystem = _s3(_without_path(uri))
    except (pyarrow.ArrowException, OSError) as error:
        if "AWS Error" in str(error):
            raise
        told = str(error).partition("\n")[0]
        raise ConfigError(
            f"storage {uri} cannot be used: {told}; docs/storage.md says which URIs there are"
        ) from None
    return filesystem, path


def refuse_credentials(uri: str) -> None:
    """Raise ConfigError where a URI holds a password, a key or a token."""
    parts = urlsplit(uri)
    named = [name for name in parse_qs(parts.query) if any(word in name for word in SECRETS)]
    user = parts.scheme in ("s3", "gs") and parts.username is not None
    if user or parts.password is not None or named:
        raise ConfigError(
            f"storage {parts.scheme}://... holds credentials, which would be written to files and "
            "shown; set them in the environment instead, as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY are (docs/storage.md)"
        )


def _without_path(uri: str) -> str:
    """The same for all folders of a bucket, so that they share connections.

    >>> _without_path("s3://bucket/runs/mine?region=eu-west-1")
    's3://bucket?region=eu-west-1'
    """
    return urlsplit(uri)._replace(path="", fragment="").geturl()


@lru_cache(maxsize=32)
def _s3(root: str) -> Any:
    """S3 as the URI says, and: small files in one request, not three; timeouts; few retries."""
    if "tls_verify_certificates" in root:  # which pyarrow takes from a URI only
        return pyarrow.fs.FileSystem.from_uri(f"{root}&allow_delayed_open=true")[0]
    filesystem, _ = pyarrow.fs.FileSystem.from_uri(root)
    _, (options,) = filesystem.__reduce__()  # what the URI meant, as it would be pickled
    patient = {
        "allow_delayed_open": True,
        "connect_timeout": CONNECT_TIMEOUT,
        "request_timeout": REQUEST_TIMEOUT,
        "retry_strategy": pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    }
    return pyarrow.fs.S3FileSystem(**{**options, **patient})

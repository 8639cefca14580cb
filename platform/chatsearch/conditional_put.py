"""Creating an object of an S3 store only where there is none: ``PUT`` with ``If-None-Match: *``.

pyarrow's S3 file system has no conditional writes, so this one request goes through botocore, which reads the same AWS variables.
Amazon S3, MinIO, R2 and SeaweedFS from 4.18 on decide between competing requests atomically.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from chatsearch.errors import StorageError

_EXISTS = 412
_CONFLICT = 409
_ATTEMPTS = 5


@functools.lru_cache(maxsize=32)
def _client(endpoint: str | None, region: str | None, access_key: str | None) -> Any:
    import botocore.config
    import botocore.session

    del access_key  # only a cache key: other credentials, other connection
    config = botocore.config.Config(
        retries={"mode": "standard", "max_attempts": _ATTEMPTS},
        connect_timeout=10,
        read_timeout=60,
        s3={"addressing_style": "path"} if endpoint else {},
    )
    session = botocore.session.get_session()
    return session.create_client("s3", region_name=region or "us-east-1", endpoint_url=endpoint, config=config)


def put_if_absent(uri: str, data: bytes) -> bool:
    """Create the object ``s3://bucket/key`` with these bytes; False where one is there already.

    An answer that got lost is asked for again, so False may also mean that an earlier attempt of this call succeeded: callers
    compare what is there with what they sent.

    Raises:
        StorageError: the store failed, or does not know conditional writes.
    """
    import botocore.exceptions

    env = os.environ.get
    client = _client(env("AWS_ENDPOINT_URL"), env("AWS_REGION") or env("AWS_DEFAULT_REGION"), env("AWS_ACCESS_KEY_ID"))
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    detail = ""
    for _ in range(_ATTEMPTS):
        try:
            client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except botocore.exceptions.ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status == _EXISTS:
                return False
            detail = " ".join(str(error).split())[:300]
            if status != _CONFLICT:  # a conflict is a competitor still under way: ask again who won
                break
        except botocore.exceptions.BotoCoreError as error:
            detail = " ".join(str(error).split())[:300]
            break
        else:
            return True
    raise StorageError(
        f"Cannot create {uri}: {detail}. Check the address, the credentials and that the store is up and takes conditional writes "
        "(If-None-Match), then run the same command again."
    )

"""Room for a file before its bytes come: told at once if there is none, and laid out in one stretch.

libc's `posix_fallocate` writes a byte into every block where the file system cannot reserve (NFSv3, 9p);
for 50 GiB that is minutes. The system call itself says so, and then the size alone is set.
"""

import ctypes
import errno
import os

_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})


def reserve(descriptor: int, size: int) -> None:
    """Give the open file *size* bytes, on disk where the file system can. Raises OSError."""
    if not size:
        return
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    code = errno.ENOSYS
    if call is not None:
        arguments = (descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size))
        while (code := ctypes.get_errno() if call(*arguments) else 0) == errno.EINTR:
            pass
    if code in _CANNOT:
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
    elif code:
        raise OSError(code, os.strerror(code))
